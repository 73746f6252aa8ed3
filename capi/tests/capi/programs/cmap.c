#include "say.h"
#include <corosync/cmap.h>

static cmap_handle_t handle;
static int called;
static cmap_track_handle_t own;

static void print_value(const char *name, struct cmap_notify_value value)
{
	size_t at;

	printf("  %s: type %d, %zu bytes:", name, value.len ? value.type : 0, value.len);
	for (at = 0; at < value.len; at++) {
		printf(" %02x", ((const unsigned char *) value.data)[at]);
	}
	printf("\n");
}

static void notify(cmap_handle_t from, cmap_track_handle_t tracker, int32_t event, const char *key,
	struct cmap_notify_value new_value, struct cmap_notify_value old_value, void *user_data)
{
	called++;
	printf("notified of %s: event %d, handle %d, tracker %d, data %s\n", key, event, from == handle,
		tracker == own, (const char *) user_data);
	print_value("new", new_value);
	print_value("old", old_value);
}

static void notify_and_ask(cmap_handle_t from, cmap_track_handle_t tracker, int32_t event,
	const char *key, struct cmap_notify_value new_value, struct cmap_notify_value old_value,
	void *user_data)
{
	uint32_t number = 0;

	notify(from, tracker, event, key, new_value, old_value, user_data);
	SAY(cmap_get_uint32(from, "test.number", &number));
	printf("  number %u\n", number);
	SAY(cmap_track_delete(from, tracker));
}

static void notify_and_finalize(cmap_handle_t from, cmap_track_handle_t tracker, int32_t event,
	const char *key, struct cmap_notify_value new_value, struct cmap_notify_value old_value,
	void *user_data)
{
	notify(from, tracker, event, key, new_value, old_value, user_data);
	SAY(cmap_finalize(from));
	SAY(cmap_finalize(from));
}

static void get(const char *key, size_t room)
{
	unsigned char value[64];
	size_t length = room, at;
	cmap_value_types_t type = 0;
	int result = cmap_get(handle, key, value, &length, &type);

	printf("cmap_get(%s, room %zu) = %d", key, room, result);
	if (result == CS_OK) {
		printf(", type %d, %zu bytes:", type, length);
		/* Without room C copies what it did not get. */
		for (at = 0; at < length && at < room; at++) {
			printf(" %02x", value[at]);
		}
	}
	printf("\n");
}

static void everything(void)
{
	cmap_iter_handle_t iteration;
	char key[CMAP_KEYNAME_MAXLEN + 1];
	size_t length;
	cmap_value_types_t type;

	SAY(cmap_iter_init(handle, NULL, &iteration));
	while (cmap_iter_next(handle, iteration, key, &length, &type) == CS_OK) {
		char value[4096];
		size_t room = sizeof(value);
		int result;

		/* What changes by itself, or by who asks. */
		if (strstr(key, "stats") || strstr(key, "runtime.connections") || strstr(key, "test.")) {
			continue;
		}
		result = cmap_get(handle, key, value, &room, &type);
		printf("%s: type %d, length %zu, get %d with %zu bytes, first %02x\n", key, type, length,
			result, room, (unsigned char) value[0]);
	}
	SAY(cmap_iter_next(handle, iteration, key, &length, &type));
	SAY(cmap_iter_finalize(handle, iteration));
	SAY(cmap_iter_finalize(handle, iteration));
	SAY(cmap_iter_next(handle, iteration, key, &length, &type));
}

static void numbers(void)
{
	int8_t i8 = 0;
	uint8_t u8 = 0;
	int16_t i16 = 0;
	uint16_t u16 = 0;
	int32_t i32 = 0;
	uint32_t u32 = 0;
	int64_t i64 = 0;
	uint64_t u64 = 0;
	float flt = 0;
	double dbl = 0;
	char *text = NULL;

	SAY(cmap_set_int8(handle, "test.i8", -8));
	SAY(cmap_set_uint8(handle, "test.u8", 200));
	SAY(cmap_set_int16(handle, "test.i16", -16000));
	SAY(cmap_set_uint16(handle, "test.u16", 60000));
	SAY(cmap_set_int32(handle, "test.i32", -320000));
	SAY(cmap_set_uint32(handle, "test.u32", 4000000000u));
	SAY(cmap_set_int64(handle, "test.i64", -64000000000));
	SAY(cmap_set_uint64(handle, "test.u64", 18000000000000000000u));
	SAY(cmap_set_float(handle, "test.flt", 1.5f));
	SAY(cmap_set_double(handle, "test.dbl", -2.25));
	SAY(cmap_set_string(handle, "test.str", "a text"));
	SAY(cmap_set_string(handle, "test.empty", ""));
	SAY(cmap_set(handle, "test.bin", "\1\2\0\3", 4, CMAP_VALUETYPE_BINARY));
	SAY(cmap_get_int8(handle, "test.i8", &i8));
	SAY(cmap_get_uint8(handle, "test.u8", &u8));
	SAY(cmap_get_int16(handle, "test.i16", &i16));
	SAY(cmap_get_uint16(handle, "test.u16", &u16));
	SAY(cmap_get_int32(handle, "test.i32", &i32));
	SAY(cmap_get_uint32(handle, "test.u32", &u32));
	SAY(cmap_get_int64(handle, "test.i64", &i64));
	SAY(cmap_get_uint64(handle, "test.u64", &u64));
	SAY(cmap_get_float(handle, "test.flt", &flt));
	SAY(cmap_get_double(handle, "test.dbl", &dbl));
	printf("%d %u %d %u %d %u %lld %llu %f %f\n", i8, u8, i16, u16, i32, u32, (long long) i64,
		(unsigned long long) u64, flt, dbl);
	SAY(cmap_get_string(handle, "test.str", &text));
	printf("text %s\n", text);
	free(text);
	SAY(cmap_get_string(handle, "test.empty", &text));
	printf("text \"%s\"\n", text);
	free(text);
	SAY(cmap_get_string(handle, "test.u8", &text));
	SAY(cmap_get_string(handle, "test.none", &text));
	SAY(cmap_get_uint8(handle, "test.u16", &u8));
	SAY(cmap_get_uint32(handle, "test.i32", &u32));
	SAY(cmap_inc(handle, "test.u8"));
	SAY(cmap_dec(handle, "test.i8"));
	SAY(cmap_inc(handle, "test.str"));
	SAY(cmap_inc(handle, "test.none"));
	SAY(cmap_inc(handle, "ab"));
	SAY(cmap_inc(handle, "runtime.config.totem.token"));
	get("test.u8", 1);
	get("test.i8", 64);
	get("test.u64", 7);
	get("test.str", 64);
	get("test.str", 7);
	get("test.str", 6);
	get("test.empty", 64);
	get("test.bin", 64);
	get("test.bin", 4);
	get("test.bin", 0);
}

static void wrong_arguments(void)
{
	char long_key[400], longest[257];
	size_t length;
	cmap_value_types_t type;
	cmap_iter_handle_t iteration;
	cmap_track_handle_t tracker;
	uint32_t number;

	memset(long_key, 'k', sizeof(long_key));
	long_key[sizeof(long_key) - 1] = 0;
	memset(longest, 'k', sizeof(longest));
	longest[255] = 0;
	SAY(cmap_set_uint32(handle, "ab", 1));
	SAY(cmap_set_uint32(handle, "", 1));
	SAY(cmap_set_uint32(handle, "white space", 1));
	SAY(cmap_set_uint32(handle, "test.\303\244", 1));
	SAY(cmap_set_uint32(handle, longest, 1));
	SAY(cmap_delete(handle, longest));
	SAY(cmap_set_uint32(handle, long_key, 1));
	SAY(cmap_set(handle, NULL, "1", 1, CMAP_VALUETYPE_STRING));
	SAY(cmap_set(handle, "test.key", NULL, 1, CMAP_VALUETYPE_STRING));
	SAY(cmap_set_string(handle, "test.key", NULL));
	SAY(cmap_set(handle, "test.key", "123", 3, CMAP_VALUETYPE_UINT32));
	SAY(cmap_set(handle, "test.key", "1234", 4, 77));
	SAY(cmap_set(handle, "test.key", "1234", 4, 0));
	SAY(cmap_set_uint32(handle, "runtime.config.totem.token", 1));
	SAY(cmap_get(handle, NULL, NULL, NULL, NULL));
	SAY(cmap_get(handle, "totem.cluster_name", &number, NULL, NULL));
	SAY(cmap_get(handle, "totem.cluster_name", NULL, NULL, NULL));
	SAY(cmap_get(handle, "totem.cluster_name", NULL, &length, NULL));
	SAY(cmap_get(handle, "totem.cluster_name", NULL, NULL, &type));
	printf("length %zu, type %d\n", length, type);
	SAY(cmap_get(handle, long_key, NULL, &length, &type));
	SAY(cmap_get_uint32(handle, "ab", &number));
	SAY(cmap_get_uint32(handle, "", &number));
	SAY(cmap_get_uint32(handle, "white space", &number));
	SAY(cmap_get_uint32(handle, "test.\303\244", &number));
	SAY(cmap_get_uint32(handle, "test.none", &number));
	SAY(cmap_delete(handle, NULL));
	SAY(cmap_delete(handle, "ab"));
	SAY(cmap_delete(handle, "white space"));
	SAY(cmap_delete(handle, "test.none"));
	SAY(cmap_delete(handle, "runtime.config.totem.token"));
	SAY(cmap_delete(handle, long_key));
	SAY(cmap_iter_init(handle, NULL, NULL));
	SAY(cmap_iter_init(handle, "white space", &iteration));
	SAY(cmap_iter_next(handle, iteration, longest, &length, &type));
	SAY(cmap_iter_finalize(handle, iteration));
	SAY(cmap_iter_init(handle, "no.such.prefix.", &iteration));
	SAY(cmap_iter_next(handle, iteration, longest, &length, &type));
	SAY(cmap_iter_next(handle, iteration, longest, NULL, NULL));
	SAY(cmap_iter_next(handle, iteration, NULL, NULL, NULL));
	SAY(cmap_iter_finalize(handle, iteration));
	SAY(cmap_iter_next(handle, NO_HANDLE, longest, &length, &type));
	SAY(cmap_iter_finalize(handle, NO_HANDLE));
	SAY(cmap_track_add(handle, "test.key", CMAP_TRACK_ADD, NULL, NULL, &tracker));
	SAY(cmap_track_add(handle, "test.key", CMAP_TRACK_ADD, notify, NULL, NULL));
	SAY(cmap_track_add(handle, "ab", CMAP_TRACK_ADD, notify, NULL, &tracker));
	SAY(cmap_track_add(handle, "white space", CMAP_TRACK_ADD, notify, NULL, &tracker));
	SAY(cmap_track_add(handle, "white space", CMAP_TRACK_ADD | CMAP_TRACK_PREFIX, notify, NULL,
		&tracker));
	SAY(cmap_track_add(handle, "test.key", 0, notify, NULL, &tracker));
	SAY(cmap_track_add(handle, "test.key", 64, notify, NULL, &tracker));
	SAY(cmap_track_delete(handle, NO_HANDLE));
}

static void bad_handles(cmap_handle_t bad)
{
	int fd;
	const void *context;
	size_t length;
	cmap_iter_handle_t iteration;
	cmap_track_handle_t tracker;
	char key[CMAP_KEYNAME_MAXLEN + 1];

	SAY(cmap_fd_get(bad, &fd));
	SAY(cmap_dispatch(bad, CS_DISPATCH_ALL));
	SAY(cmap_context_get(bad, &context));
	SAY(cmap_context_set(bad, NULL));
	SAY(cmap_set_uint8(bad, "test.key", 1));
	SAY(cmap_delete(bad, "test.key"));
	SAY(cmap_get(bad, "test.key", NULL, &length, NULL));
	SAY(cmap_inc(bad, "test.key"));
	SAY(cmap_iter_init(bad, "test.", &iteration));
	SAY(cmap_iter_next(bad, NO_HANDLE, key, NULL, NULL));
	SAY(cmap_iter_finalize(bad, NO_HANDLE));
	SAY(cmap_track_add(bad, "test.key", CMAP_TRACK_ADD, notify, NULL, &tracker));
	SAY(cmap_track_delete(bad, NO_HANDLE));
	SAY(cmap_finalize(bad));
}

static void tracking(void)
{
	cmap_track_handle_t other, prefix;
	int fd = -1;

	SAY(cmap_fd_get(handle, &fd));
	SAY(cmap_dispatch(handle, CS_DISPATCH_ALL));
	SAY(cmap_dispatch(handle, CS_DISPATCH_ONE_NONBLOCKING));
	SAY(readable(fd, 0));
	SAY(cmap_track_add(handle, "test.number", CMAP_TRACK_ADD | CMAP_TRACK_MODIFY | CMAP_TRACK_DELETE,
		notify, "all", &own));
	SAY(cmap_set_uint32(handle, "test.number", 1));
	SAY(readable(fd, 5000));
	SAY(cmap_set_uint32(handle, "test.number", 2));
	SAY(cmap_set_uint32(handle, "test.number", 2));
	SAY(cmap_set_string(handle, "test.number", "now a text"));
	SAY(cmap_delete(handle, "test.number"));
	SAY(cmap_dispatch(handle, CS_DISPATCH_ONE));
	printf("called %d\n", called);
	SAY(cmap_dispatch(handle, CS_DISPATCH_ONE_NONBLOCKING));
	printf("called %d\n", called);
	SAY(cmap_dispatch(handle, CS_DISPATCH_ALL));
	printf("called %d\n", called);
	SAY(cmap_dispatch(handle, CS_DISPATCH_ONE_NONBLOCKING));
	SAY(cmap_track_add(handle, "test.", CMAP_TRACK_ADD | CMAP_TRACK_PREFIX, notify, "prefix", &prefix));
	SAY(cmap_set_uint32(handle, "test.number", 3));
	SAY(cmap_dispatch(handle, CS_DISPATCH_ALL));
	SAY(cmap_track_delete(handle, prefix));
	SAY(cmap_track_delete(handle, prefix));
	SAY(cmap_track_delete(handle, own));
	SAY(cmap_set_uint32(handle, "test.number", 4));
	SAY(cmap_dispatch(handle, CS_DISPATCH_ALL));
	SAY(cmap_track_add(handle, "test.number", CMAP_TRACK_MODIFY, notify_and_ask, "asks", &other));
	SAY(cmap_set_uint32(handle, "test.number", 5));
	SAY(cmap_dispatch(handle, CS_DISPATCH_ONE));
	SAY(cmap_set_uint32(handle, "test.number", 6));
	SAY(cmap_dispatch(handle, CS_DISPATCH_ALL));
	SAY(cmap_track_add(handle, "test.number", CMAP_TRACK_MODIFY, notify_and_finalize, "ends", &other));
	SAY(cmap_set_uint32(handle, "test.number", 7));
	SAY(cmap_set_uint32(handle, "test.number", 8));
	SAY(readable(fd, 5000));
	SAY(cmap_dispatch(handle, CS_DISPATCH_BLOCKING));
}

static void credentials(void)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);
	int fd;

	int result;

	SAY(cmap_fd_get(handle, &fd));
	result = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length);
	printf("SO_PEERCRED = %d, uid %d\n", result, result == 0 ? (int) peer.uid : -1);
}

static void forked(void)
{
	char *name = NULL;
	int state;
	pid_t child = fork();

	if (child == 0) {
		SAY(cmap_get_string(handle, "totem.version", &name));
		_exit(0);
	}
	waitpid(child, &state, 0);
	printf("child ended with %d\n", state);
}

int main(void)
{
	const void *context = &handle;
	cmap_handle_t stats, second;

	SAY(cmap_initialize(&handle));
	SAY(cmap_context_get(handle, &context));
	printf("no context: %d\n", context == NULL);
	SAY(cmap_context_set(handle, &handle));
	SAY(cmap_context_get(handle, &context));
	printf("own context: %d\n", context == &handle);
	cmap_delete(handle, "test.number");
	everything();
	numbers();
	wrong_arguments();
	bad_handles(NO_HANDLE);
	bad_handles(0);
	credentials();
	SAY(cmap_initialize(&second));
	printf("two handles: %d\n", second != handle);
	SAY(cmap_finalize(second));
	bad_handles(second);
	SAY(cmap_initialize_map(&stats, CMAP_MAP_STATS));
	SAY(cmap_set_uint8(stats, "stats.clear.all", 1));
	SAY(cmap_set_uint8(stats, "stats.test", 1));
	SAY(cmap_finalize(stats));
	SAY(cmap_initialize_map(&stats, 7));
	tracking();
	bad_handles(handle);
	SAY(cmap_initialize(&handle));
	forked();
	return 0;
}
