#include "say.h"
#include <errno.h>
#include <signal.h>
#include <corosync/cpg.h>

static cpg_handle_t handle;
static int called;

static struct cpg_name group(const char *text)
{
	struct cpg_name name = { .length = strlen(text) };

	strcpy(name.value, text);
	return name;
}

/* A process that has left this moment is asked to wait until its leave has come back. */
static int join_again(const struct cpg_name *name)
{
	int result;

	while ((result = cpg_join(handle, name)) == CS_ERR_TRY_AGAIN) {
		usleep(1000);
	}
	return result;
}

static const char *process(uint32_t pid)
{
	return pid == (uint32_t) getpid() ? "self" : "other";
}

static void print_list(const char *name, const struct cpg_address *list, size_t count)
{
	size_t at;

	printf("  %s:", name);
	for (at = 0; at < count; at++) {
		printf(" %u/%s/%u", list[at].nodeid, process(list[at].pid), list[at].reason);
	}
	printf("\n");
}

static void deliver(cpg_handle_t from, const struct cpg_name *name, uint32_t nodeid, uint32_t pid,
	void *msg, size_t length)
{
	size_t at;
	unsigned sum = 0;

	called++;
	for (at = 0; at < length; at++) {
		sum = sum * 31 + ((unsigned char *) msg)[at];
	}
	printf("delivered to %.*s (%u) by %u/%s: %zu bytes, sum %u, aligned %d, handle %d\n",
		(int) name->length, name->value, name->length, nodeid, process(pid), length, sum,
		length == 0 || (uintptr_t) msg % 8 == 0, from == handle);
	/* Allowed. */
	memset(msg, 0, length);
}

static void confchg(cpg_handle_t from, const struct cpg_name *name,
	const struct cpg_address *members, size_t member_count, const struct cpg_address *left,
	size_t left_count, const struct cpg_address *joined, size_t joined_count)
{
	called++;
	printf("changed %.*s, handle %d\n", (int) name->length, name->value, from == handle);
	print_list("members", members, member_count);
	print_list("left", left, left_count);
	print_list("joined", joined, joined_count);
}

static void totem_confchg(cpg_handle_t from, struct cpg_ring_id ring_id, uint32_t count,
	const uint32_t *members)
{
	uint32_t at;

	called++;
	printf("ring %u.%llu, handle %d:", ring_id.nodeid, (unsigned long long) ring_id.seq,
		from == handle);
	for (at = 0; at < count; at++) {
		printf(" %u", members[at]);
	}
	printf("\n");
}

static void confchg_and_send(cpg_handle_t from, const struct cpg_name *name,
	const struct cpg_address *members, size_t member_count, const struct cpg_address *left,
	size_t left_count, const struct cpg_address *joined, size_t joined_count)
{
	struct iovec piece = { .iov_base = "from a callback", .iov_len = 15 };
	unsigned node = 0;

	confchg(from, name, members, member_count, left, left_count, joined, joined_count);
	SAY(cpg_mcast_joined(from, CPG_TYPE_AGREED, &piece, 1));
	SAY(cpg_local_get(from, &node));
}

static void deliver_and_finalize(cpg_handle_t from, const struct cpg_name *name, uint32_t nodeid,
	uint32_t pid, void *msg, size_t length)
{
	deliver(from, name, nodeid, pid, msg, length);
	SAY(cpg_finalize(from));
	SAY(cpg_finalize(from));
}

/* Waits until so many callbacks ran. */
static void until(int wanted)
{
	int fd, rounds = 0;

	cpg_fd_get(handle, &fd);
	while (called < wanted && rounds++ < 100) {
		int result;

		readable(fd, 100);
		result = cpg_dispatch(handle, CS_DISPATCH_ALL);
		if (result != CS_OK) {
			printf("cpg_dispatch = %d\n", result);
			return;
		}
	}
	printf("called %d\n", called);
}

static void send_pieces(size_t pieces, size_t length)
{
	struct iovec iovec[8];
	size_t at;
	int result;

	for (at = 0; at < pieces; at++) {
		iovec[at].iov_base = malloc(length + 1);
		iovec[at].iov_len = length;
		memset(iovec[at].iov_base, (int) ('a' + at), length);
	}
	do {
		result = cpg_mcast_joined(handle, CPG_TYPE_AGREED, iovec, pieces);
	} while (result == CS_ERR_TRY_AGAIN && usleep(1000) == 0);
	printf("cpg_mcast_joined(%zu pieces of %zu) = %d\n", pieces, length, result);
	for (at = 0; at < pieces; at++) {
		free(iovec[at].iov_base);
	}
}

static void iterate(cpg_iteration_type_t type, const struct cpg_name *name)
{
	cpg_iteration_handle_t iteration;
	struct cpg_iteration_description_t found;

	printf("iteration %d\n", type);
	if (SAY(cpg_iteration_initialize(handle, type, name, &iteration)) != CS_OK) {
		return;
	}
	while (SAY(cpg_iteration_next(iteration, &found)) == CS_OK) {
		printf("  %.*s", (int) found.group.length, found.group.value);
		if (type != CPG_ITERATION_NAME_ONLY) {
			printf(" %u/%s", found.nodeid, process(found.pid));
		}
		printf("\n");
	}
	SAY(cpg_iteration_next(iteration, NULL));
	SAY(cpg_iteration_next(iteration, &found));
	SAY(cpg_iteration_finalize(iteration));
	SAY(cpg_iteration_finalize(iteration));
	SAY(cpg_iteration_next(iteration, &found));
}

static void members(const char *text)
{
	struct cpg_name name = group(text);
	struct cpg_address list[CPG_MEMBERS_MAX];
	int count = -1;

	printf("members of %s\n", text);
	if (SAY(cpg_membership_get(handle, &name, list, &count)) == CS_OK) {
		print_list("members", list, count);
	}
}

/* Waits until corosync has told the end of a membership: with it, it tells others their ring too. */
static void until_gone(struct cpg_name *name)
{
	struct cpg_address list[CPG_MEMBERS_MAX];
	cpg_handle_t own;
	int count = 1;

	cpg_initialize(&own, NULL);
	while (cpg_membership_get(own, name, list, &count) != CS_OK || count > 0) {
		usleep(1000);
	}
	cpg_finalize(own);
}

static void bad_handles(cpg_handle_t bad)
{
	struct cpg_name name = group("differential");
	struct cpg_address list[CPG_MEMBERS_MAX];
	struct iovec piece = { .iov_base = "x", .iov_len = 1 };
	cpg_iteration_handle_t iteration;
	cpg_flow_control_state_t state;
	void *context;
	unsigned node;
	uint32_t size;
	int fd, count;

	SAY(cpg_fd_get(bad, &fd));
	SAY(cpg_max_atomic_msgsize_get(bad, &size));
	SAY(cpg_context_get(bad, &context));
	SAY(cpg_context_set(bad, NULL));
	SAY(cpg_dispatch(bad, CS_DISPATCH_ALL));
	SAY(cpg_join(bad, &name));
	SAY(cpg_leave(bad, &name));
	SAY(cpg_mcast_joined(bad, CPG_TYPE_AGREED, &piece, 1));
	SAY(cpg_zcb_mcast_joined(bad, CPG_TYPE_AGREED, "x", 1));
	SAY(cpg_membership_get(bad, &name, list, &count));
	SAY(cpg_local_get(bad, &node));
	SAY(cpg_flow_control_state_get(bad, &state));
	SAY(cpg_iteration_initialize(bad, CPG_ITERATION_ALL, NULL, &iteration));
	SAY(cpg_iteration_next(bad, NULL));
	SAY(cpg_iteration_finalize(bad));
	SAY(cpg_finalize(bad));
}

static void wrong_arguments(void)
{
	struct cpg_name name = group("differential"), long_name = group("x");
	struct cpg_address list[CPG_MEMBERS_MAX];
	cpg_iteration_handle_t iteration;
	cpg_model_v1_data_t model = { .model = CPG_MODEL_V1, .flags = 64 };
	cpg_handle_t other;
	int count;

	long_name.length = CPG_MAX_NAME_LENGTH + 1;
	SAY(cpg_model_initialize(&other, 7, (cpg_model_data_t *) &model, NULL));
	SAY(cpg_model_initialize(&other, CPG_MODEL_V1, (cpg_model_data_t *) &model, NULL));
	SAY(cpg_join(handle, &long_name));
	SAY(cpg_leave(handle, &long_name));
	SAY(cpg_leave(handle, &name));
	SAY(cpg_membership_get(handle, &long_name, list, &count));
	SAY(cpg_membership_get(handle, &name, NULL, &count));
	SAY(cpg_membership_get(handle, &name, list, NULL));
	SAY(cpg_iteration_initialize(handle, CPG_ITERATION_ALL, NULL, NULL));
	SAY(cpg_iteration_initialize(handle, CPG_ITERATION_ALL, &name, &iteration));
	SAY(cpg_iteration_initialize(handle, CPG_ITERATION_NAME_ONLY, &name, &iteration));
	SAY(cpg_iteration_initialize(handle, CPG_ITERATION_ONE_GROUP, NULL, &iteration));
	SAY(cpg_iteration_initialize(handle, CPG_ITERATION_ONE_GROUP, &long_name, &iteration));
	SAY(cpg_iteration_initialize(handle, 9, NULL, &iteration));
}

static void *dispatch_blocking(void *result)
{
	*(int *) result = cpg_dispatch(handle, CS_DISPATCH_BLOCKING);
	return NULL;
}

/* One thread dispatches while another sends. */
static void two_threads(void)
{
	cpg_callbacks_t callbacks = { .cpg_deliver_fn = deliver_and_finalize };
	struct cpg_name name = group("differential");
	pthread_t thread;
	int result = -1;

	SAY(cpg_initialize(&handle, &callbacks));
	SAY(join_again(&name));
	pthread_create(&thread, NULL, dispatch_blocking, &result);
	send_pieces(1, 10);
	pthread_join(thread, NULL);
	printf("blocking dispatch = %d\n", result);
}

static void handle_signal(int number)
{
	(void) number;
}

static void *interrupt(void *thread)
{
	struct iovec piece = { .iov_base = "x", .iov_len = 1 };

	usleep(200000);
	pthread_kill(*(pthread_t *) thread, SIGUSR1);
	usleep(200000);
	cpg_mcast_joined(handle, CPG_TYPE_AGREED, &piece, 1);
	return NULL;
}

/* A signal does not end a dispatch. */
static void interrupted(void)
{
	cpg_callbacks_t callbacks = { deliver, confchg };
	struct sigaction action = { .sa_handler = handle_signal };
	struct cpg_name name = group("differential");
	pthread_t self = pthread_self(), thread;

	sigaction(SIGUSR1, &action, NULL);
	SAY(cpg_initialize(&handle, &callbacks));
	SAY(join_again(&name));
	SAY(cpg_dispatch(handle, CS_DISPATCH_ONE));
	pthread_create(&thread, NULL, interrupt, &self);
	SAY(cpg_dispatch(handle, CS_DISPATCH_ONE));
	pthread_join(thread, NULL);
	SAY(cpg_finalize(handle));
}

/* A daemon connects, forks, and goes on in the child. */
static void forked(void)
{
	cpg_callbacks_t callbacks = { deliver, confchg };
	struct cpg_name name = group("differential");
	int state;
	pid_t child;

	SAY(cpg_initialize(&handle, &callbacks));
	child = fork();
	if (child == 0) {
		called = 0;
		SAY(join_again(&name));
		send_pieces(1, 5);
		until(2);
		SAY(cpg_leave(handle, &name));
		until(3);
		SAY(cpg_finalize(handle));
		_exit(0);
	}
	waitpid(child, &state, 0);
	printf("child ended with %d\n", state);
}

static int delivered;

static void count(cpg_handle_t from, const struct cpg_name *name, uint32_t nodeid, uint32_t pid,
	void *message, size_t length)
{
	(void) from, (void) name, (void) nodeid, (void) pid, (void) message, (void) length;
	delivered++;
}

/* What was sent before a finalize is delivered. */
static void last_words(void)
{
	cpg_callbacks_t callbacks = { .cpg_deliver_fn = count };
	struct cpg_name name = group("last words");
	struct iovec piece = { .iov_base = "word", .iov_len = 4 };
	int child, at, fd, result;

	SAY(cpg_initialize(&handle, &callbacks));
	SAY(join_again(&name));
	for (child = 0; child < 10; child++) {
		if (fork() == 0) {
			cpg_handle_t own;

			cpg_initialize(&own, NULL);
			cpg_join(own, &name);
			for (at = 0; at < 50; at++) {
				while ((result = cpg_mcast_joined(own, CPG_TYPE_AGREED, &piece, 1))
					== CS_ERR_TRY_AGAIN) {
					usleep(1000);
				}
			}
			cpg_finalize(own);
			_exit(0);
		}
		wait(NULL);
	}
	SAY(cpg_fd_get(handle, &fd));
	while (delivered < 500 && readable(fd, 5000) == 1) {
		cpg_dispatch(handle, CS_DISPATCH_ALL);
	}
	printf("delivered %d\n", delivered);
	SAY(cpg_finalize(handle));
}

int main(void)
{
	cpg_callbacks_t callbacks = { deliver, confchg_and_send };
	cpg_model_v1_data_t model = {
		.model = CPG_MODEL_V1,
		.cpg_deliver_fn = deliver,
		.cpg_confchg_fn = confchg,
		.cpg_totem_confchg_fn = totem_confchg,
		.flags = CPG_MODEL_V1_DELIVER_INITIAL_TOTEM_CONF,
	};
	struct cpg_name name = group("differential"), other = group("another"), longest = group("");
	cpg_flow_control_state_t state;
	void *context = &handle, *buffer;
	unsigned node = 0;
	uint32_t size = 0;
	int fd;

	SAY(cpg_initialize(&handle, &callbacks));
	SAY(cpg_context_get(handle, &context));
	printf("no context: %d\n", context == NULL);
	SAY(cpg_context_set(handle, &handle));
	SAY(cpg_context_get(handle, &context));
	printf("own context: %d\n", context == &handle);
	SAY(cpg_max_atomic_msgsize_get(handle, &size));
	/* Ours is smaller; what is between the two travels in fragments. */
	printf("size %d\n", size > 1000000);
	size = 1040000;
	SAY(cpg_local_get(handle, &node));
	printf("node %u\n", node);
	SAY(cpg_flow_control_state_get(handle, &state));
	printf("state %d\n", state);
	wrong_arguments();
	bad_handles(NO_HANDLE);
	SAY(cpg_fd_get(handle, &fd));
	SAY(readable(fd, 0));
	SAY(cpg_dispatch(handle, CS_DISPATCH_ALL));
	SAY(cpg_dispatch(handle, CS_DISPATCH_ONE_NONBLOCKING));
	members("differential");
	SAY(cpg_join(handle, &name));
	SAY(cpg_join(handle, &name));
	SAY(cpg_join(handle, &other));
	SAY(readable(fd, 5000));
	/* The change of membership, and the message that its callback sends. */
	until(2);
	members("differential");
	members("another");
	iterate(CPG_ITERATION_NAME_ONLY, NULL);
	iterate(CPG_ITERATION_ALL, NULL);
	iterate(CPG_ITERATION_ONE_GROUP, &name);
	iterate(CPG_ITERATION_ONE_GROUP, &other);
	send_pieces(0, 0);
	send_pieces(1, 0);
	send_pieces(1, 1);
	send_pieces(3, 100);
	send_pieces(2, 200000);
	send_pieces(1, size);
	until(8);
	send_pieces(1, size + 1);
	until(9);
	send_pieces(1, 5 << 20);
	until(10);
	SAY(cpg_zcb_alloc(handle, 100, &buffer));
	memset(buffer, 'z', 100);
	SAY(cpg_zcb_mcast_joined(handle, CPG_TYPE_AGREED, buffer, 100));
	SAY(cpg_zcb_free(handle, buffer));
	until(11);
	SAY(cpg_leave(handle, &name));
	until(12);
	SAY(cpg_leave(handle, &name));
	SAY(cpg_finalize(handle));
	bad_handles(handle);
	SAY(cpg_initialize(&handle, &callbacks));
	longest.length = CPG_MAX_NAME_LENGTH;
	memset(longest.value, 'l', CPG_MAX_NAME_LENGTH);
	SAY(cpg_join(handle, &longest));
	until(14);
	SAY(cpg_finalize(handle));
	until_gone(&longest);

	called = 0;
	SAY(cpg_model_initialize(&handle, CPG_MODEL_V1, (cpg_model_data_t *) &model, &called));
	SAY(cpg_context_get(handle, &context));
	printf("own context: %d\n", context == &called);
	SAY(join_again(&name));
	until(2);
	SAY(cpg_finalize(handle));
	until_gone(&name);

	SAY(cpg_initialize(&handle, NULL));
	SAY(join_again(&name));
	SAY(cpg_fd_get(handle, &fd));
	SAY(readable(fd, 5000));
	/* A message without a callback counts too. */
	SAY(cpg_dispatch(handle, CS_DISPATCH_ONE));
	SAY(cpg_dispatch(handle, CS_DISPATCH_ONE_NONBLOCKING));
	SAY(cpg_finalize(handle));
	two_threads();
	interrupted();
	forked();
	last_words();
	return 0;
}
