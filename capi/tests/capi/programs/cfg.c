#include "say.h"
#include <arpa/inet.h>
#include <corosync/cfg.h>

static corosync_cfg_handle_t handle;

static void shutdown_asked(corosync_cfg_handle_t from, corosync_cfg_shutdown_flags_t flags)
{
	printf("shutdown asked: flags %d, handle %d\n", flags, from == handle);
	SAY(corosync_cfg_replyto_shutdown(from, COROSYNC_CFG_SHUTDOWN_FLAG_NO));
}

static void addresses(unsigned node, size_t room)
{
	corosync_cfg_node_address_t found[8];
	char text[64];
	int count = -1, at;

	memset(found, 0, sizeof(found));
	printf("addresses of node %u, room %zu\n", node, room);
	if (SAY(corosync_cfg_get_node_addrs(handle, node, room, &count, found)) == CS_OK) {
		for (at = 0; at < count && at < (int) room; at++) {
			struct sockaddr_in *address = (struct sockaddr_in *) found[at].address;

			printf("  length %d, family %d, %s\n", found[at].address_length, address->sin_family,
				inet_ntop(AF_INET, &address->sin_addr, text, sizeof(text)));
		}
		printf("  %d addresses\n", count);
	}
}

static void status(unsigned node)
{
	struct corosync_cfg_node_status_v1 found;
	int at;

	memset(&found, 0, sizeof(found));
	printf("status of node %u\n", node);
	if (SAY(corosync_cfg_node_status_get(handle, node, CFG_NODE_STATUS_V1, &found)) == CS_OK) {
		printf("  version %d, node %u, reachable %u, remote %u, external %u, wire %u %u %u\n",
			found.version, found.nodeid, found.reachable, found.remote, found.external,
			found.onwire_min, found.onwire_max, found.onwire_ver);
		for (at = 0; at < CFG_MAX_LINKS; at++) {
			printf("  link %d: %u %u %u, \"%s\" \"%s\"\n", at, found.link_status[at].enabled,
				found.link_status[at].connected, found.link_status[at].dynconnected,
				found.link_status[at].src_ipaddr, found.link_status[at].dst_ipaddr);
		}
	}
}

static void rings(void)
{
	char **names, **states;
	unsigned count, at;

	if (SAY(corosync_cfg_ring_status_get(handle, &names, &states, &count)) == CS_OK) {
		for (at = 0; at < count; at++) {
			printf("  %s: %s\n", names[at], states[at]);
			free(names[at]);
			free(states[at]);
		}
		free(names);
		free(states);
	}
}

static void bad_handles(corosync_cfg_handle_t bad)
{
	corosync_cfg_node_address_t found[8];
	struct corosync_cfg_node_status_v1 state;
	char **names, **states;
	unsigned count, node;
	int fd, addresses;

	SAY(corosync_cfg_fd_get(bad, &fd));
	SAY(corosync_cfg_dispatch(bad, CS_DISPATCH_ALL));
	SAY(corosync_cfg_ring_status_get(bad, &names, &states, &count));
	SAY(corosync_cfg_node_status_get(bad, 1, CFG_NODE_STATUS_V1, &state));
	SAY(corosync_cfg_kill_node(bad, 7, "why"));
	SAY(corosync_cfg_trackstart(bad, 0));
	SAY(corosync_cfg_trackstop(bad));
	SAY(corosync_cfg_try_shutdown(bad, COROSYNC_CFG_SHUTDOWN_FLAG_REQUEST));
	SAY(corosync_cfg_replyto_shutdown(bad, COROSYNC_CFG_SHUTDOWN_FLAG_NO));
	SAY(corosync_cfg_get_node_addrs(bad, 1, 8, &addresses, found));
	SAY(corosync_cfg_local_get(bad, &node));
	SAY(corosync_cfg_reload_config(bad));
	SAY(corosync_cfg_reopen_log_files(bad));
	SAY(corosync_cfg_finalize(bad));
}

static volatile int answer = -1;

static void *try_shutdown(void *asker)
{
	answer = corosync_cfg_try_shutdown(*(corosync_cfg_handle_t *) asker,
		COROSYNC_CFG_SHUTDOWN_FLAG_REQUEST);
	return NULL;
}

/* One connection asks, the other refuses. */
static void shutdown_refused(void)
{
	corosync_cfg_handle_t asker;
	pthread_t thread;
	int fd;

	SAY(corosync_cfg_initialize(&asker, NULL));
	SAY(corosync_cfg_trackstart(handle, 0));
	SAY(corosync_cfg_fd_get(handle, &fd));
	SAY(corosync_cfg_dispatch(handle, CS_DISPATCH_ONE_NONBLOCKING));
	pthread_create(&thread, NULL, try_shutdown, &asker);
	while (answer < 0) {
		readable(fd, 100);
		if (corosync_cfg_dispatch(handle, CS_DISPATCH_ALL) != CS_OK) {
			break;
		}
	}
	pthread_join(thread, NULL);
	printf("corosync_cfg_try_shutdown = %d\n", answer);
	SAY(corosync_cfg_trackstop(handle));
	SAY(corosync_cfg_finalize(asker));
}

int main(void)
{
	corosync_cfg_callbacks_t callbacks = { shutdown_asked };
	struct corosync_cfg_node_status_v1 state;
	char long_reason[400];
	unsigned node = 77;

	memset(long_reason, 'r', sizeof(long_reason));
	long_reason[399] = 0;
	SAY(corosync_cfg_initialize(&handle, &callbacks));
	SAY(corosync_cfg_local_get(handle, &node));
	printf("node %u\n", node);
	addresses(1, 8);
	addresses(1, 0);
	addresses(0, 8);
	addresses(7, 8);
	status(1);
	status(2);
	SAY(corosync_cfg_node_status_get(handle, 1, 7, &state));
	SAY(corosync_cfg_node_status_get(handle, 1, CFG_NODE_STATUS_V1, NULL));
	rings();
	SAY(corosync_cfg_kill_node(handle, 77, long_reason));
	SAY(corosync_cfg_reload_config(handle));
	SAY(corosync_cfg_reopen_log_files(handle));
	SAY(corosync_cfg_replyto_shutdown(handle, COROSYNC_CFG_SHUTDOWN_FLAG_NO));
	SAY(corosync_cfg_dispatch(handle, CS_DISPATCH_ALL));
	SAY(corosync_cfg_dispatch(handle, CS_DISPATCH_ONE_NONBLOCKING));
	shutdown_refused();
	bad_handles(NO_HANDLE);
	SAY(corosync_cfg_finalize(handle));
	bad_handles(handle);
	SAY(corosync_cfg_initialize(&handle, NULL));
	SAY(corosync_cfg_finalize(handle));
	return 0;
}
