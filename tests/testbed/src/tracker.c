/* Changes keys by libcmap, and prints what it is told of all changes.
 *
 * PREFIX COUNT: COUNT times sets and deletes PREFIXtheirs and sets PREFIXboth; ends when PREFIXend is set.
 */
#include <corosync/cmap.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int ended;
static char end[CMAP_KEYNAME_MAXLEN + 1];

static void check(const char *what, cs_error_t error)
{
	if (error != CS_OK) {
		printf("%s: %d\n", what, error);
		exit(1);
	}
}

static void print(struct cmap_notify_value value)
{
	uint32_t number;

	if (value.len == 0)
		printf(" -");
	else if (value.type == CMAP_VALUETYPE_UINT32) {
		memcpy(&number, value.data, sizeof(number));
		printf(" u32:%u", number);
	} else
		printf(" str:%s", (const char *)value.data);
}

static void notify(cmap_handle_t handle, cmap_track_handle_t track, int32_t event, const char *key,
	struct cmap_notify_value new_value, struct cmap_notify_value old_value, void *data)
{
	const char *what = event == CMAP_TRACK_ADD ? "add" : event == CMAP_TRACK_MODIFY ? "modify" : "delete";

	printf("%s %s", what, key);
	print(new_value);
	print(old_value);
	printf("\n");
	ended |= strcmp(key, end) == 0;
}

int main(int argc, char **argv)
{
	char theirs[CMAP_KEYNAME_MAXLEN + 1], both[CMAP_KEYNAME_MAXLEN + 1], text[64];
	cmap_track_handle_t track;
	cmap_handle_t handle;
	uint32_t round;

	snprintf(theirs, sizeof(theirs), "%stheirs", argv[1]);
	snprintf(both, sizeof(both), "%sboth", argv[1]);
	snprintf(end, sizeof(end), "%send", argv[1]);
	check("initialize", cmap_initialize(&handle));
	check("track", cmap_track_add(handle, argv[1],
		CMAP_TRACK_ADD | CMAP_TRACK_DELETE | CMAP_TRACK_MODIFY | CMAP_TRACK_PREFIX, notify, NULL, &track));
	printf("tracking\n");
	fflush(stdout);
	for (round = 0; round < strtoul(argv[2], NULL, 10); round++) {
		check("set", cmap_set_uint32(handle, theirs, round));
		snprintf(text, sizeof(text), "theirs %u", round);
		check("set", cmap_set_string(handle, both, text));
		check("delete", cmap_delete(handle, theirs));
		check("dispatch", cmap_dispatch(handle, CS_DISPATCH_ALL));
	}
	printf("done\n");
	fflush(stdout);
	while (!ended)
		check("dispatch", cmap_dispatch(handle, CS_DISPATCH_ONE));
	check("finalize", cmap_finalize(handle));
	return 0;
}
