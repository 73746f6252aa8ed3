/* The quorum device's extra information, which corosync has after 3.1.10. */
#include "say.h"
#include <corosync/votequorum.h>

static void extra_info(votequorum_handle_t handle, uint64_t context, uint32_t nodeid, uint32_t size,
	void *bytes)
{
	(void) handle;
	printf("extra info: context %llu, node %u: %.*s\n", (unsigned long long) context, nodeid,
		(int) size, (char *) bytes);
}

int main(void)
{
	votequorum_model_v1_data_t model = {
		.model = VOTEQUORUM_MODEL_V1,
		.votequorum_qdevice_extra_info_fn = extra_info,
	};
	votequorum_handle_t handle;
	char found[VOTEQUORUM_QDEVICE_EXTRA_NODEINFO_MAXSIZE];
	uint32_t size = 0;

	SAY(votequorum_model_initialize(&handle, &model));
	SAY(votequorum_trackstart(handle, 7, CS_TRACK_CHANGES_ONLY));
	SAY(votequorum_set_qdevice_extra_info(handle, 4, "info"));
	SAY(votequorum_qdevice_register(handle, "device"));
	SAY(votequorum_set_qdevice_extra_info(handle, 5000, found));
	SAY(votequorum_set_qdevice_extra_info(handle, 4, "info"));
	SAY(votequorum_dispatch(handle, CS_DISPATCH_ALL));
	SAY(votequorum_get_qdevice_extra_info(handle, 1, &size, found));
	SAY(votequorum_get_qdevice_extra_info(handle, 1, NULL, found));
	SAY(votequorum_get_qdevice_extra_info(handle, 1, &size, NULL));
	SAY(votequorum_set_qdevice_extra_info(handle, 4, NULL));
	SAY(votequorum_finalize(handle));
	return 0;
}
