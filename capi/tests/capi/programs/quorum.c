#include "say.h"
#include <corosync/quorum.h>

static quorum_handle_t handle;
static int called;

static void print_list(const char *name, const uint32_t *list, uint32_t count)
{
	uint32_t at;

	printf("  %s:", name);
	for (at = 0; at < count; at++) {
		printf(" %u", list[at]);
	}
	printf("\n");
}

static void notify(quorum_handle_t from, uint32_t quorate, uint64_t ring_seq, uint32_t count,
	uint32_t *list)
{
	called++;
	printf("notified: quorate %u, ring %llu, handle %d\n", quorate, (unsigned long long) ring_seq,
		from == handle);
	print_list("view", list, count);
}

static void notify_and_finalize(quorum_handle_t from, uint32_t quorate, uint64_t ring_seq,
	uint32_t count, uint32_t *list)
{
	notify(from, quorate, ring_seq, count, list);
	SAY(quorum_finalize(from));
}

static void notify_quorum(quorum_handle_t from, uint32_t quorate, struct quorum_ring_id ring_id,
	uint32_t count, const uint32_t *list)
{
	called++;
	printf("quorum: quorate %u, ring %u.%llu, handle %d\n", quorate, ring_id.nodeid,
		(unsigned long long) ring_id.seq, from == handle);
	print_list("members", list, count);
}

static void notify_nodelist(quorum_handle_t from, struct quorum_ring_id ring_id, uint32_t members,
	const uint32_t *member_list, uint32_t joined, const uint32_t *joined_list, uint32_t left,
	const uint32_t *left_list)
{
	called++;
	printf("nodelist: ring %u.%llu, handle %d\n", ring_id.nodeid, (unsigned long long) ring_id.seq,
		from == handle);
	print_list("members", member_list, members);
	print_list("joined", joined_list, joined);
	print_list("left", left_list, left);
}

static void bad_handles(quorum_handle_t bad)
{
	const void *context;
	int fd, quorate;

	SAY(quorum_fd_get(bad, &fd));
	SAY(quorum_dispatch(bad, CS_DISPATCH_ALL));
	SAY(quorum_dispatch(bad, 9));
	SAY(quorum_getquorate(bad, &quorate));
	SAY(quorum_trackstart(bad, CS_TRACK_CHANGES));
	SAY(quorum_trackstop(bad));
	SAY(quorum_context_set(bad, NULL));
	SAY(quorum_context_get(bad, &context));
	SAY(quorum_finalize(bad));
}

static void take_all(void)
{
	int fd;

	SAY(quorum_fd_get(handle, &fd));
	SAY(readable(fd, 5000));
	SAY(quorum_dispatch(handle, CS_DISPATCH_ALL));
	printf("called %d\n", called);
	SAY(quorum_dispatch(handle, CS_DISPATCH_ONE_NONBLOCKING));
}

int main(void)
{
	quorum_callbacks_t callbacks = { notify };
	quorum_model_v0_data_t v0 = { QUORUM_MODEL_V0, notify_and_finalize };
	quorum_model_v1_data_t v1 = { QUORUM_MODEL_V1, notify_quorum, notify_nodelist };
	const void *context = &handle;
	uint32_t type = 77;
	int quorate = 77;

	SAY(quorum_initialize(&handle, &callbacks, &type));
	printf("type %u\n", type);
	SAY(quorum_context_get(handle, &context));
	printf("no context: %d\n", context == NULL);
	SAY(quorum_context_set(handle, &handle));
	SAY(quorum_context_get(handle, &context));
	printf("own context: %d\n", context == &handle);
	SAY(quorum_getquorate(handle, &quorate));
	printf("quorate %d\n", quorate);
	SAY(quorum_dispatch(handle, 0));
	SAY(quorum_dispatch(handle, 9));
	SAY(quorum_dispatch(handle, CS_DISPATCH_ALL));
	SAY(quorum_dispatch(handle, CS_DISPATCH_ONE_NONBLOCKING));
	SAY(quorum_trackstop(handle));
	SAY(quorum_trackstart(handle, CS_TRACK_CURRENT));
	take_all();
	SAY(quorum_trackstop(handle));
	SAY(quorum_trackstart(handle, CS_TRACK_CHANGES_ONLY));
	SAY(quorum_dispatch(handle, CS_DISPATCH_ONE_NONBLOCKING));
	SAY(quorum_trackstop(handle));
	SAY(quorum_trackstart(handle, CS_TRACK_CURRENT | CS_TRACK_CHANGES));
	take_all();
	SAY(quorum_trackstart(handle, CS_TRACK_CHANGES));
	SAY(quorum_trackstop(handle));
	SAY(quorum_trackstop(handle));
	SAY(quorum_trackstart(handle, 0));
	SAY(quorum_trackstart(handle, 0xff00));
	bad_handles(NO_HANDLE);
	SAY(quorum_finalize(handle));
	bad_handles(handle);

	SAY(quorum_initialize(&handle, NULL, NULL));
	SAY(quorum_trackstart(handle, CS_TRACK_CURRENT));
	take_all();
	SAY(quorum_finalize(handle));
	SAY(quorum_model_initialize(&handle, 7, NULL, &type, NULL));
	called = 0;
	SAY(quorum_model_initialize(&handle, QUORUM_MODEL_V1, (quorum_model_data_t *) &v1, &type, &called));
	SAY(quorum_context_get(handle, &context));
	printf("own context: %d, type %u\n", context == &called, type);
	SAY(quorum_trackstart(handle, CS_TRACK_CURRENT | CS_TRACK_CHANGES));
	take_all();
	SAY(quorum_trackstop(handle));
	SAY(quorum_trackstart(handle, CS_TRACK_CURRENT));
	SAY(quorum_dispatch(handle, CS_DISPATCH_ONE));
	printf("called %d\n", called);
	SAY(quorum_dispatch(handle, CS_DISPATCH_ONE));
	printf("called %d\n", called);
	SAY(quorum_finalize(handle));
	SAY(quorum_model_initialize(&handle, QUORUM_MODEL_V0, (quorum_model_data_t *) &v0, NULL, NULL));
	SAY(quorum_trackstart(handle, CS_TRACK_CURRENT));
	SAY(quorum_dispatch(handle, CS_DISPATCH_BLOCKING));
	return 0;
}
