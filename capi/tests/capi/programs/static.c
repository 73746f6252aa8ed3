/* Uses two of the libraries: reads a key, joins a group, and takes its own message. */
#include "say.h"
#include <corosync/cmap.h>
#include <corosync/cpg.h>

static int delivered;

static void deliver(cpg_handle_t handle, const struct cpg_name *name, uint32_t nodeid, uint32_t pid,
	void *msg, size_t length)
{
	(void) handle;
	(void) name;
	(void) pid;
	printf("delivered by node %u: %.*s\n", nodeid, (int) length, (char *) msg);
	delivered = 1;
}

int main(void)
{
	cpg_callbacks_t callbacks = { .cpg_deliver_fn = deliver };
	struct cpg_name name = { .length = 6, .value = "static" };
	struct iovec piece = { .iov_base = "hello", .iov_len = 5 };
	cmap_handle_t map;
	cpg_handle_t group;
	uint32_t version;

	SAY(cmap_initialize(&map));
	SAY(cmap_get_uint32(map, "totem.version", &version));
	SAY(cmap_finalize(map));
	SAY(cpg_initialize(&group, &callbacks));
	SAY(cpg_join(group, &name));
	SAY(cpg_mcast_joined(group, CPG_TYPE_AGREED, &piece, 1));
	while (!delivered && cpg_dispatch(group, CS_DISPATCH_ONE) == CS_OK) {
	}
	SAY(cpg_finalize(group));
	return 0;
}
