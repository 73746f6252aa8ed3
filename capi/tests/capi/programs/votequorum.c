#include "say.h"
#include <corosync/votequorum.h>

static votequorum_handle_t handle;
static int called;

static void notify_quorum(votequorum_handle_t from, uint64_t context, uint32_t quorate,
	uint32_t count, votequorum_node_t list[])
{
	uint32_t at;

	called++;
	printf("quorum: context %llx, quorate %u, handle %d:", (unsigned long long) context, quorate,
		from == handle);
	for (at = 0; at < count; at++) {
		printf(" %u/%u", list[at].nodeid, list[at].state);
	}
	printf("\n");
}

static void notify_nodelist(votequorum_handle_t from, uint64_t context, votequorum_ring_id_t ring_id,
	uint32_t count, uint32_t list[])
{
	uint32_t at;

	called++;
	printf("nodelist: context %llx, ring %u.%llu, handle %d:", (unsigned long long) context,
		ring_id.nodeid, (unsigned long long) ring_id.seq, from == handle);
	for (at = 0; at < count; at++) {
		printf(" %u", list[at]);
	}
	printf("\n");
}

static void notify_expected(votequorum_handle_t from, uint64_t context, uint32_t expected)
{
	called++;
	printf("expected votes: context %llx, %u, handle %d\n", (unsigned long long) context, expected,
		from == handle);
}

static void info(unsigned node)
{
	struct votequorum_info found;

	memset(&found, 0, sizeof(found));
	printf("node %u\n", node);
	if (SAY(votequorum_getinfo(handle, node, &found)) == CS_OK) {
		printf("  id %u, state %u, votes %u, expected %u, highest %u, total %u, quorum %u, flags %u, "
			"device %u \"%s\"\n", found.node_id, found.node_state, found.node_votes,
			found.node_expected_votes, found.highest_expected, found.total_votes, found.quorum,
			found.flags, found.qdevice_votes, found.qdevice_name);
	}
}

static void bad_handles(votequorum_handle_t bad)
{
	votequorum_ring_id_t ring_id = { 1, 1 };
	struct votequorum_info found;
	void *context;
	int fd;

	SAY(votequorum_fd_get(bad, &fd));
	SAY(votequorum_dispatch(bad, CS_DISPATCH_ALL));
	SAY(votequorum_getinfo(bad, 1, &found));
	SAY(votequorum_setexpected(bad, 1));
	SAY(votequorum_setvotes(bad, 1, 1));
	SAY(votequorum_trackstart(bad, 0, CS_TRACK_CHANGES));
	SAY(votequorum_trackstop(bad));
	SAY(votequorum_context_get(bad, &context));
	SAY(votequorum_context_set(bad, NULL));
	SAY(votequorum_qdevice_register(bad, "device"));
	SAY(votequorum_qdevice_unregister(bad, "device"));
	SAY(votequorum_qdevice_update(bad, "device", "other"));
	SAY(votequorum_qdevice_poll(bad, "device", 1, ring_id));
	SAY(votequorum_qdevice_master_wins(bad, "device", 1));
	SAY(votequorum_finalize(bad));
}

static void take_all(int wanted)
{
	int fd, rounds = 0;

	SAY(votequorum_fd_get(handle, &fd));
	while (called < wanted && rounds++ < 50) {
		readable(fd, 100);
		votequorum_dispatch(handle, CS_DISPATCH_ALL);
	}
	printf("called %d\n", called);
	SAY(votequorum_dispatch(handle, CS_DISPATCH_ONE_NONBLOCKING));
}

/* A change goes round the cluster. */
static void until_votes(unsigned votes, unsigned expected)
{
	struct votequorum_info found;
	int rounds = 0;

	do {
		memset(&found, 0, sizeof(found));
		votequorum_getinfo(handle, 1, &found);
	} while ((found.node_votes != votes || found.highest_expected != expected) && rounds++ < 1000
		&& usleep(10000) == 0);
	printf("votes %u, expected %u\n", found.node_votes, found.highest_expected);
}

static void devices(void)
{
	votequorum_ring_id_t ring_id = { 1, 1 };
	char long_name[300];

	memset(long_name, 'd', sizeof(long_name));
	long_name[299] = 0;
	SAY(votequorum_qdevice_register(handle, ""));
	SAY(votequorum_qdevice_register(handle, long_name));
	SAY(votequorum_qdevice_unregister(handle, ""));
	SAY(votequorum_qdevice_unregister(handle, "device"));
	SAY(votequorum_qdevice_update(handle, "device", ""));
	SAY(votequorum_qdevice_update(handle, "device", "other"));
	SAY(votequorum_qdevice_poll(handle, "", 1, ring_id));
	SAY(votequorum_qdevice_poll(handle, "device", 1, ring_id));
	SAY(votequorum_qdevice_master_wins(handle, "", 1));
	SAY(votequorum_qdevice_master_wins(handle, "device", 1));
}

int main(void)
{
	votequorum_callbacks_t callbacks = { notify_quorum, notify_expected, notify_nodelist };
	void *context = &handle;

	SAY(votequorum_initialize(&handle, &callbacks));
	SAY(votequorum_context_get(handle, &context));
	printf("no context: %d\n", context == NULL);
	SAY(votequorum_context_set(handle, &handle));
	SAY(votequorum_context_get(handle, &context));
	printf("own context: %d\n", context == &handle);
	info(0);
	info(1);
	info(7);
	SAY(votequorum_dispatch(handle, 0));
	SAY(votequorum_dispatch(handle, 9));
	SAY(votequorum_dispatch(handle, CS_DISPATCH_ALL));
	SAY(votequorum_dispatch(handle, CS_DISPATCH_ONE_NONBLOCKING));
	SAY(votequorum_trackstop(handle));
	SAY(votequorum_trackstart(handle, 0xabcdef0123456789ull, CS_TRACK_CURRENT | CS_TRACK_CHANGES));
	take_all(3);
	SAY(votequorum_trackstart(handle, 1, CS_TRACK_CHANGES));
	take_all(6);
	SAY(votequorum_setexpected(handle, 0));
	SAY(votequorum_setexpected(handle, 1000));
	SAY(votequorum_setvotes(handle, 7, 1));
	SAY(votequorum_setvotes(handle, 1, 2));
	until_votes(2, 3);
	SAY(votequorum_setvotes(handle, 1, 1));
	until_votes(1, 3);
	SAY(votequorum_setexpected(handle, 2));
	until_votes(1, 2);
	SAY(votequorum_setvotes(handle, 0, 0));
	SAY(votequorum_trackstop(handle));
	devices();
	bad_handles(NO_HANDLE);
	SAY(votequorum_finalize(handle));
	bad_handles(handle);
	return 0;
}
