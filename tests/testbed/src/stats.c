/* Prints types, lengths and strings of the statistics as libcmap tells them.
 *
 * First of all keys, then of those of a connection that is made and closed.
 */
#include <corosync/cmap.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned int told;

static void check(const char *what, cs_error_t error)
{
	if (error != CS_OK) {
		printf("%s: %d\n", what, error);
		exit(1);
	}
}

static void print(cmap_value_types_t type, size_t length, const void *value)
{
	size_t i;

	printf(" %d:%zu", type, length);
	for (i = 0; type == CMAP_VALUETYPE_STRING && i < length; i++)
		printf("%s%02x", i == 0 ? "=" : "", ((const unsigned char *)value)[i]);
}

static void notify(cmap_handle_t handle, cmap_track_handle_t track, int32_t event, const char *key,
	struct cmap_notify_value new_value, struct cmap_notify_value old_value, void *data)
{
	printf("%s %s", event == CMAP_TRACK_ADD ? "add" : "delete", key);
	print(new_value.type, new_value.len, new_value.data);
	print(old_value.type, old_value.len, old_value.data);
	printf("\n");
	told++;
}

int main(void)
{
	char key[CMAP_KEYNAME_MAXLEN + 1], value[64];
	cmap_iter_handle_t iterator;
	cmap_value_types_t type, iterated_type;
	cmap_handle_t handle, other;
	cmap_track_handle_t track;
	size_t length, iterated, taken;

	check("initialize", cmap_initialize_map(&handle, CMAP_MAP_STATS));
	check("iterate", cmap_iter_init(handle, "stats.", &iterator));
	while (cmap_iter_next(handle, iterator, key, &iterated, &iterated_type) == CS_OK) {
		check(key, cmap_get(handle, key, NULL, &length, &type));
		memset(value, 0x55, sizeof(value));
		taken = sizeof(value);
		check(key, cmap_get(handle, key, value, &taken, &type));
		printf("key %s %d:%zu %zu", key, iterated_type, iterated, length);
		print(type, taken, value);
		printf("\n");
	}
	check("finish", cmap_iter_finalize(handle, iterator));

	check("track", cmap_track_add(handle, "stats.ipcs.",
		CMAP_TRACK_ADD | CMAP_TRACK_DELETE | CMAP_TRACK_PREFIX, notify, NULL, &track));
	check("connect", cmap_initialize(&other));
	while (told < 13)
		check("dispatch", cmap_dispatch(handle, CS_DISPATCH_ONE));
	check("disconnect", cmap_finalize(other));
	while (told < 26)
		check("dispatch", cmap_dispatch(handle, CS_DISPATCH_ONE));
	check("finalize", cmap_finalize(handle));
	return 0;
}
