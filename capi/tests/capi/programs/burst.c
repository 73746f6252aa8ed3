/* More messages at once than the socket to the daemon has room for wake bytes. */
#include "say.h"
#include <corosync/cpg.h>

int main(void)
{
	struct cpg_name name = { .length = 5, .value = "burst" };
	struct iovec piece = { .iov_base = "message", .iov_len = 7 };
	cpg_handle_t handle;
	int number, sent = 0;

	SAY(cpg_initialize(&handle, NULL));
	SAY(cpg_join(handle, &name));
	/* The test holds the daemon now. */
	getchar();
	for (number = 0; number < 500; number++) {
		sent += cpg_mcast_joined(handle, CPG_TYPE_AGREED, &piece, 1) == CS_OK;
	}
	printf("sent %d\n", sent);
	return 0;
}
