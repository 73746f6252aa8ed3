/* The C side: the same work over libcmap, libcpg, libquorum, libvotequorum and libcfg, as a good C program does it. */

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>

#include <corosync/cfg.h>
#include <corosync/cmap.h>
#include <corosync/cpg.h>
#include <corosync/quorum.h>
#include <corosync/votequorum.h>

#define CHECK(call) \
	do { \
		cs_error_t error_ = (call); \
		if (error_ != CS_OK) { fprintf(stderr, "%s: error %d\n", #call, error_); abort(); } \
	} while (0)

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* --- a connection to each service --- */

struct c_clients {
	cmap_handle_t cmap, setter;
	cpg_handle_t cpg;
	quorum_handle_t quorum;
	votequorum_handle_t votequorum;
	corosync_cfg_handle_t cfg;
	int cmap_fd, cpg_fd;
	struct cpg_name group;
	uint32_t node_id;
	unsigned value;
};

/* What the callbacks count. One thread of a process dispatches. */
static long notified, delivered;

static void notify(cmap_handle_t handle, cmap_track_handle_t track, int32_t event, const char *key,
	struct cmap_notify_value new_value, struct cmap_notify_value old_value, void *data)
{
	(void)handle; (void)track; (void)event; (void)key; (void)new_value; (void)old_value;
	(void)data;
	notified++;
}

static void deliver(cpg_handle_t handle, const struct cpg_name *group, uint32_t node, uint32_t pid, void *message, size_t length)
{
	(void)handle; (void)group; (void)node; (void)pid; (void)message; (void)length;
	delivered++;
}

static void confchg(cpg_handle_t handle, const struct cpg_name *group, const struct cpg_address *members, size_t member_count,
	const struct cpg_address *left, size_t left_count, const struct cpg_address *joined, size_t joined_count)
{
	(void)handle; (void)group; (void)members; (void)member_count; (void)left; (void)left_count; (void)joined; (void)joined_count;
}

static void quorum_changed(quorum_handle_t handle, uint32_t quorate, uint64_t seq, uint32_t count, uint32_t *list)
{
	(void)handle; (void)quorate; (void)seq; (void)count; (void)list;
}

static void votequorum_changed(votequorum_handle_t handle, uint64_t context, uint32_t quorate, uint32_t count,
	votequorum_node_t list[])
{
	(void)handle; (void)context; (void)quorate; (void)count; (void)list;
}

static void shut_down(corosync_cfg_handle_t handle, corosync_cfg_shutdown_flags_t flags)
{
	(void)handle; (void)flags;
}

static void connect_cpg(struct c_clients *c, const char *group)
{
	cpg_model_v1_data_t callbacks = { .cpg_deliver_fn = deliver, .cpg_confchg_fn = confchg };

	CHECK(cpg_model_initialize(&c->cpg, CPG_MODEL_V1, (cpg_model_data_t *)&callbacks, c));
	CHECK(cpg_fd_get(c->cpg, &c->cpg_fd));
	c->group.length = strlen(group);
	memcpy(c->group.value, group, c->group.length);
}

static void connect_with_callbacks(struct c_clients *c)
{
	quorum_callbacks_t quorum = { quorum_changed };
	votequorum_callbacks_t votequorum = { .votequorum_quorum_notify_fn = votequorum_changed };
	corosync_cfg_callbacks_t cfg = { shut_down };
	uint32_t type;

	CHECK(cmap_initialize(&c->cmap));
	CHECK(quorum_initialize(&c->quorum, &quorum, &type));
	CHECK(votequorum_initialize(&c->votequorum, &votequorum));
	CHECK(corosync_cfg_initialize(&c->cfg, &cfg));
}

struct c_clients *c_connect(const char *group)
{
	struct c_clients *c = calloc(1, sizeof *c);

	connect_with_callbacks(c);
	CHECK(cmap_initialize(&c->setter));
	CHECK(cmap_fd_get(c->cmap, &c->cmap_fd));
	connect_cpg(c, group);
	CHECK(corosync_cfg_local_get(c->cfg, &c->node_id));
	return c;
}

void c_disconnect(struct c_clients *c)
{
	CHECK(cmap_finalize(c->cmap));
	CHECK(cmap_finalize(c->setter));
	CHECK(cpg_finalize(c->cpg));
	CHECK(quorum_finalize(c->quorum));
	CHECK(votequorum_finalize(c->votequorum));
	CHECK(corosync_cfg_finalize(c->cfg));
	free(c);
}

/* --- calls, each timed by itself --- */

static void nothing(struct c_clients *c)
{
	(void)c;
}

static void cmap_get_number(struct c_clients *c)
{
	uint32_t value;

	CHECK(cmap_get_uint32(c->cmap, "bench.number", &value));
}

static void cmap_get_text(struct c_clients *c)
{
	char *value;

	CHECK(cmap_get_string(c->cmap, "totem.cluster_name", &value));
	free(value);
}

static void cmap_set_number(struct c_clients *c)
{
	CHECK(cmap_set_uint32(c->cmap, "bench.number", ++c->value));
}

static void cmap_increment(struct c_clients *c)
{
	CHECK(cmap_inc(c->cmap, "bench.number"));
}

static void cmap_decrement(struct c_clients *c)
{
	CHECK(cmap_dec(c->cmap, "bench.number"));
}

static void cmap_set_and_delete(struct c_clients *c)
{
	CHECK(cmap_set_uint32(c->cmap, "bench.deleted", 1));
	CHECK(cmap_delete(c->cmap, "bench.deleted"));
}

static void cmap_track_and_stop(struct c_clients *c)
{
	cmap_track_handle_t track;

	CHECK(cmap_track_add(c->cmap, "bench.nothing", CMAP_TRACK_MODIFY, notify, c, &track));
	CHECK(cmap_track_delete(c->cmap, track));
}

static void cmap_iterate(struct c_clients *c)
{
	cmap_iter_handle_t iter;
	char key[CMAP_KEYNAME_MAXLEN + 1];
	size_t length;
	cmap_value_types_t type;

	CHECK(cmap_iter_init(c->cmap, NULL, &iter));
	while (cmap_iter_next(c->cmap, iter, key, &length, &type) == CS_OK) {}
	CHECK(cmap_iter_finalize(c->cmap, iter));
}

static void cmap_list(struct c_clients *c)
{
	cmap_iter_handle_t iter;
	char key[CMAP_KEYNAME_MAXLEN + 1];
	size_t length, capacity = 0;
	cmap_value_types_t type;
	void *value = NULL;

	CHECK(cmap_iter_init(c->cmap, NULL, &iter));
	while (cmap_iter_next(c->cmap, iter, key, &length, &type) == CS_OK) {
		if (length > capacity)
			value = realloc(value, capacity = length);
		CHECK(cmap_get(c->cmap, key, value, &length, &type));
	}
	CHECK(cmap_iter_finalize(c->cmap, iter));
	free(value);
}

static void quorum_get(struct c_clients *c)
{
	int quorate;

	CHECK(quorum_getquorate(c->quorum, &quorate));
}

/* What the daemon tells at first is taken too. */
static void quorum_track(struct c_clients *c)
{
	CHECK(quorum_trackstart(c->quorum, CS_TRACK_CHANGES));
	CHECK(quorum_trackstop(c->quorum));
	CHECK(quorum_dispatch(c->quorum, CS_DISPATCH_ALL));
}

static void votequorum_get(struct c_clients *c)
{
	struct votequorum_info info;

	CHECK(votequorum_getinfo(c->votequorum, c->node_id, &info));
}

static void votequorum_expect(struct c_clients *c)
{
	CHECK(votequorum_setexpected(c->votequorum, 1));
}

static void votequorum_vote(struct c_clients *c)
{
	CHECK(votequorum_setvotes(c->votequorum, c->node_id, 1));
}

static void votequorum_track(struct c_clients *c)
{
	CHECK(votequorum_trackstart(c->votequorum, 0, CS_TRACK_CHANGES));
	CHECK(votequorum_trackstop(c->votequorum));
	CHECK(votequorum_dispatch(c->votequorum, CS_DISPATCH_ALL));
}

static void cfg_track(struct c_clients *c)
{
	CHECK(corosync_cfg_trackstart(c->cfg, 0));
	CHECK(corosync_cfg_trackstop(c->cfg));
}

static void cfg_local(struct c_clients *c)
{
	CHECK(corosync_cfg_local_get(c->cfg, &c->node_id));
}

static void cfg_addresses(struct c_clients *c)
{
	corosync_cfg_node_address_t addresses[8];
	int count;

	CHECK(corosync_cfg_get_node_addrs(c->cfg, c->node_id, 8, &count, addresses));
}

static void cfg_rings(struct c_clients *c)
{
	char **names, **status;
	unsigned count;

	CHECK(corosync_cfg_ring_status_get(c->cfg, &names, &status, &count));
	for (unsigned i = 0; i < count; i++) {
		free(names[i]);
		free(status[i]);
	}
	free(names);
	free(status);
}

static void cfg_node(struct c_clients *c)
{
	struct corosync_cfg_node_status_v1 status;

	CHECK(corosync_cfg_node_status_get(c->cfg, c->node_id, CFG_NODE_STATUS_V1, &status));
}

static void cpg_local(struct c_clients *c)
{
	unsigned node;

	CHECK(cpg_local_get(c->cpg, &node));
}

static void cpg_members(struct c_clients *c)
{
	struct cpg_address members[CPG_MEMBERS_MAX];
	int count;

	CHECK(cpg_membership_get(c->cpg, &c->group, members, &count));
}

static void cpg_iterate(struct c_clients *c)
{
	cpg_iteration_handle_t iteration;
	struct cpg_iteration_description_t member;

	CHECK(cpg_iteration_initialize(c->cpg, CPG_ITERATION_ALL, NULL, &iteration));
	while (cpg_iteration_next(iteration, &member) == CS_OK) {}
	CHECK(cpg_iteration_finalize(iteration));
}

static void cmap_dispatch_nothing(struct c_clients *c)
{
	CHECK(cmap_dispatch(c->cmap, CS_DISPATCH_ALL));
}

static void cpg_dispatch_nothing(struct c_clients *c)
{
	CHECK(cpg_dispatch(c->cpg, CS_DISPATCH_ALL));
}

static void connect_to_cmap(struct c_clients *c)
{
	cmap_handle_t handle;

	(void)c;
	CHECK(cmap_initialize(&handle));
	CHECK(cmap_finalize(handle));
}

static void connect_to_cpg(struct c_clients *c)
{
	cpg_handle_t handle;

	(void)c;
	CHECK(cpg_initialize(&handle, NULL));
	CHECK(cpg_finalize(handle));
}

static void connect_to_quorum(struct c_clients *c)
{
	quorum_handle_t handle;
	uint32_t type;

	(void)c;
	CHECK(quorum_initialize(&handle, NULL, &type));
	CHECK(quorum_finalize(handle));
}

static void connect_to_votequorum(struct c_clients *c)
{
	votequorum_handle_t handle;

	(void)c;
	CHECK(votequorum_initialize(&handle, NULL));
	CHECK(votequorum_finalize(handle));
}

static void connect_to_cfg(struct c_clients *c)
{
	corosync_cfg_handle_t handle;

	(void)c;
	CHECK(corosync_cfg_initialize(&handle, NULL));
	CHECK(corosync_cfg_finalize(handle));
}

static const struct {
	const char *name;
	void (*call)(struct c_clients *);
} CALLS[] = {
	{ "nothing", nothing },
	{ "cmap get, number", cmap_get_number },
	{ "cmap get, text", cmap_get_text },
	{ "cmap set", cmap_set_number },
	{ "cmap increment", cmap_increment },
	{ "cmap decrement", cmap_decrement },
	{ "cmap set and delete", cmap_set_and_delete },
	{ "cmap track add and delete", cmap_track_and_stop },
	{ "cmap iteration of all keys", cmap_iterate },
	{ "cmap list of all keys and values", cmap_list },
	{ "quorum getquorate", quorum_get },
	{ "quorum trackstart and trackstop", quorum_track },
	{ "votequorum getinfo", votequorum_get },
	{ "votequorum setexpected", votequorum_expect },
	{ "votequorum setvotes", votequorum_vote },
	{ "votequorum trackstart and trackstop", votequorum_track },
	{ "cfg local_get", cfg_local },
	{ "cfg get_node_addrs", cfg_addresses },
	{ "cfg ring_status_get", cfg_rings },
	{ "cfg node_status_get", cfg_node },
	{ "cfg trackstart and trackstop", cfg_track },
	{ "cpg local_get", cpg_local },
	{ "cpg membership_get", cpg_members },
	{ "cpg iteration", cpg_iterate },
	{ "dispatch of nothing, cmap", cmap_dispatch_nothing },
	{ "dispatch of nothing, cpg", cpg_dispatch_nothing },
	{ "connect and disconnect, cmap", connect_to_cmap },
	{ "connect and disconnect, cmap, rings as in C", connect_to_cmap },
	{ "connect and disconnect, cpg", connect_to_cpg },
	{ "connect and disconnect, cpg, rings as in C", connect_to_cpg },
	{ "connect and disconnect, quorum", connect_to_quorum },
	{ "connect and disconnect, votequorum", connect_to_votequorum },
	{ "connect and disconnect, cfg", connect_to_cfg },
};

/* The number of a call, or -1. */
int c_call_number(const char *name)
{
	for (size_t i = 0; i < sizeof CALLS / sizeof *CALLS; i++)
		if (!strcmp(CALLS[i].name, name))
			return (int)i;
	return -1;
}

/* Repeats a call after a pause each time, and says how many nanoseconds each took. */
void c_calls(struct c_clients *c, int number, long count, long pause, uint64_t *nanos)
{
	struct timespec wait = { pause / 1000000000, pause % 1000000000 };

	for (long i = 0; i < count; i++) {
		if (pause)
			nanosleep(&wait, NULL);
		uint64_t start = now();
		CALLS[number].call(c);
		nanos[i] = now() - start;
	}
}

/* --- events --- */

static void wait_readable(int fd, int milliseconds)
{
	struct pollfd poll_fd = { fd, POLLIN, 0 };

	if (poll(&poll_fd, 1, milliseconds) < 0 && errno != EINTR) { perror("poll"); abort(); }
}

/* Tracks one key this many times more. */
void c_track(struct c_clients *c, long trackers)
{
	cmap_track_handle_t track;

	CHECK(cmap_set_uint32(c->setter, "bench.burst.c", ++c->value));
	for (long i = 0; i < trackers; i++)
		CHECK(cmap_track_add(c->cmap, "bench.burst.c", CMAP_TRACK_MODIFY, notify, c, &track));
}

/* Sets the key that is tracked. */
void c_set_tracked(struct c_clients *c, long count)
{
	for (long i = 0; i < count; i++)
		CHECK(cmap_set_uint32(c->setter, "bench.burst.c", ++c->value));
}

/* Takes this many events of cmap. */
void c_drain_cmap(struct c_clients *c, long count)
{
	notified = 0;
	while (notified < count) {
		wait_readable(c->cmap_fd, -1);
		CHECK(cmap_dispatch(c->cmap, CS_DISPATCH_ALL));
	}
}

void c_join(struct c_clients *c)
{
	CHECK(cpg_join(c->cpg, &c->group));
}

void c_leave(struct c_clients *c)
{
	CHECK(cpg_leave(c->cpg, &c->group));
}

/* Multicasts once. CS_ERR_INTERRUPT: libcpg gave up between two fragments, and all of it has to be sent again. */
static int multicast(struct c_clients *c, const struct iovec *message)
{
	cs_error_t error = cpg_mcast_joined(c->cpg, CPG_TYPE_AGREED, message, 1);

	if (error == CS_ERR_TRY_AGAIN || error == CS_ERR_INTERRUPT)
		return 0;
	CHECK(error);
	return 1;
}

/* Multicasts messages of a size, each when the one before it has arrived, and says how many nanoseconds each was under
   way. */
void c_round_trips(struct c_clients *c, size_t size, long count, uint64_t *nanos)
{
	struct iovec message = { calloc(1, size ? size : 1), size };

	for (long i = 0; i < count; i++) {
		uint64_t start = now();
		delivered = 0;
		while (!multicast(c, &message)) {
			wait_readable(c->cpg_fd, 1);
			CHECK(cpg_dispatch(c->cpg, CS_DISPATCH_ALL));
		}
		while (!delivered)
			CHECK(cpg_dispatch(c->cpg, CS_DISPATCH_ONE));
		nanos[i] = now() - start;
	}
	free(message.iov_base);
}

/* Multicasts so many messages of a size while it takes what arrives, and ends when all have arrived. It waits for its
   descriptor when it is to try again, but not for long: nothing announces that multicasts are taken again. */
void c_stream(struct c_clients *c, long count, size_t size)
{
	struct iovec message = { calloc(1, size ? size : 1), size };
	long sent = 0;

	delivered = 0;
	while (delivered < count) {
		int refused = 0;
		while (sent < count && !refused) {
			if (multicast(c, &message)) sent++; else refused = 1;
			CHECK(cpg_dispatch(c->cpg, CS_DISPATCH_ALL));
		}
		if (delivered < count) {
			wait_readable(c->cpg_fd, refused ? 1 : -1);
			CHECK(cpg_dispatch(c->cpg, CS_DISPATCH_ALL));
		}
	}
	free(message.iov_base);
}

struct sender { struct c_clients *c; long count; size_t size; };

static void *send_all(void *argument)
{
	struct sender *s = argument;
	struct iovec message = { calloc(1, s->size ? s->size : 1), s->size };
	struct timespec nap = { 0, 1000000 };

	for (long sent = 0; sent < s->count;)
		if (multicast(s->c, &message)) sent++; else nanosleep(&nap, NULL);
	free(message.iov_base);
	return NULL;
}

/* Takes this many messages of cpg. */
void c_drain_cpg(struct c_clients *c, long count)
{
	delivered = 0;
	while (delivered < count) {
		wait_readable(c->cpg_fd, -1);
		CHECK(cpg_dispatch(c->cpg, CS_DISPATCH_ALL));
	}
}

/* One thread sends and naps when it is to try again, this one takes what arrives. */
void c_stream_of_two(struct c_clients *c, long count, size_t size)
{
	struct sender sender = { c, count, size };
	pthread_t thread;

	pthread_create(&thread, NULL, send_all, &sender);
	c_drain_cpg(c, count);
	pthread_join(thread, NULL);
}

/* Sends without taking anything, so that the events wait. */
void c_send(struct c_clients *c, long count, size_t size)
{
	struct sender sender = { c, count, size };

	send_all(&sender);
}

/* --- threads and connections --- */

struct getter {
	cmap_handle_t handle;
	/* Held around each call where threads share a handle, since libqb mixes up their replies. */
	pthread_mutex_t *shared;
	long count;
	uint64_t *nanos;
};

static void *get_all(void *argument)
{
	struct getter *g = argument;
	uint32_t value;

	for (long i = 0; i < g->count; i++) {
		uint64_t start = now();
		if (g->shared)
			pthread_mutex_lock(g->shared);
		CHECK(cmap_get_uint32(g->handle, "bench.number", &value));
		if (g->shared)
			pthread_mutex_unlock(g->shared);
		g->nanos[i] = now() - start;
	}
	return NULL;
}

/* Opens so many connections to cmap. */
cmap_handle_t *c_open(long count)
{
	cmap_handle_t *handles = calloc((size_t)count, sizeof *handles);

	for (long i = 0; i < count; i++)
		CHECK(cmap_initialize(&handles[i]));
	return handles;
}

void c_close(cmap_handle_t *handles, long count)
{
	for (long i = 0; i < count; i++)
		CHECK(cmap_finalize(handles[i]));
	free(handles);
}

/* So many gets by each thread at the same time. All use the first connection, or each its own. */
void c_get_by_threads(cmap_handle_t *handles, int shared, long threads, long count, uint64_t *nanos)
{
	pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	struct getter getters[threads];
	pthread_t ids[threads];

	for (long i = 0; i < threads; i++) {
		getters[i] = (struct getter) { handles[shared ? 0 : i], shared ? &mutex : NULL, count, nanos + i * count };
		pthread_create(&ids[i], NULL, get_all, &getters[i]);
	}
	for (long i = 0; i < threads; i++)
		pthread_join(ids[i], NULL);
}

/* One get over each connection in turn. */
void c_get_in_turn(cmap_handle_t *handles, long connections, long count, uint64_t *nanos)
{
	uint32_t value;

	for (long i = 0; i < count; i++) {
		uint64_t start = now();
		CHECK(cmap_get_uint32(handles[i % connections], "bench.number", &value));
		nanos[i] = now() - start;
	}
}

/* --- what runs in a process of its own --- */

/* A monitor of all services, which has taken what they told at first. */
void c_monitor(void)
{
	struct c_clients *c = calloc(1, sizeof *c);
	cmap_track_handle_t track;

	connect_with_callbacks(c);
	CHECK(cmap_track_add(c->cmap, "runtime.", CMAP_TRACK_ADD | CMAP_TRACK_DELETE | CMAP_TRACK_MODIFY | CMAP_TRACK_PREFIX,
		notify, c, &track));
	connect_cpg(c, "monitor");
	CHECK(cpg_join(c->cpg, &c->group));
	CHECK(quorum_trackstart(c->quorum, CS_TRACK_CURRENT | CS_TRACK_CHANGES));
	CHECK(votequorum_trackstart(c->votequorum, 0, CS_TRACK_CURRENT | CS_TRACK_CHANGES));
	CHECK(corosync_cfg_trackstart(c->cfg, 0));
	CHECK(cpg_dispatch(c->cpg, CS_DISPATCH_ONE));
	CHECK(quorum_dispatch(c->quorum, CS_DISPATCH_ONE));
	CHECK(votequorum_dispatch(c->votequorum, CS_DISPATCH_ONE));
}
