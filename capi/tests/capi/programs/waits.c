/* One request of each library. */
#include "say.h"
#include <corosync/cfg.h>
#include <corosync/cmap.h>
#include <corosync/cpg.h>
#include <corosync/quorum.h>

int main(void)
{
	corosync_cfg_handle_t cfg;
	cmap_handle_t cmap;
	cpg_handle_t cpg;
	quorum_handle_t quorum;
	uint32_t type;
	unsigned node;
	int quorate;

	SAY(corosync_cfg_initialize(&cfg, NULL));
	SAY(cmap_initialize(&cmap));
	SAY(cpg_initialize(&cpg, NULL));
	SAY(quorum_initialize(&quorum, NULL, &type));
	/* The test does something to the daemon now. */
	getchar();
	SAY(corosync_cfg_local_get(cfg, &node));
	SAY(cmap_set_uint8(cmap, "test.key", 1));
	SAY(cpg_local_get(cpg, &node));
	SAY(quorum_getquorate(quorum, &quorate));
	return 0;
}
