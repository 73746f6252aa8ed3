/* A member of a group by libcpg.
 *
 * exchange GROUP COUNT: sends COUNT messages when there are two members, takes in 2 * COUNT and prints their hash.
 * once GROUP: sends its pid, prints the messages it gets, and ends after one of another member.
 *
 * GROUP is in hexadecimal digits, its length what they make.
 */
#include <corosync/cpg.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct cpg_name group;
static size_t members;
static uint64_t delivered, hash;
static int verbose, others;

static void fail(const char *what, int error)
{
	printf("%s: %d\n", what, error);
	exit(1);
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545F4914F6CDD1DULL;
}

static size_t length(uint64_t *random)
{
	uint64_t kind = next_random(random) % 10000;
	uint64_t limit = kind < 2 ? 5 << 20 : kind < 10 ? 500000 : kind < 200 ? 10000 : kind < 9000 ? 200 : 1;

	return next_random(random) % limit;
}

static void hash_word(uint64_t word)
{
	hash = (hash ^ word) * 0x100000001b3ULL;
	hash = hash << 23 | hash >> 41;
}

static void deliver(cpg_handle_t handle, const struct cpg_name *name, uint32_t node, uint32_t pid, void *message,
	size_t size)
{
	const unsigned char *bytes = message;
	uint64_t word;
	size_t i;

	if (name->length != group.length || memcmp(name->value, group.value, group.length) != 0)
		fail("another group", name->length);
	hash_word(node);
	hash_word(pid);
	hash_word(size);
	for (i = 0; i + 8 <= size; i += 8) {
		memcpy(&word, bytes + i, 8);
		hash_word(word);
	}
	for (; i < size; i++)
		hash_word(bytes[i]);
	delivered++;
	others += pid != (uint32_t)getpid();
	if (verbose) {
		printf("delivered ");
		for (i = 0; i < name->length; i++)
			printf("%02x", (unsigned char)name->value[i]);
		printf(" %.*s\n", (int)size, (const char *)message);
		fflush(stdout);
	}
}

static void confchg(cpg_handle_t handle, const struct cpg_name *name, const struct cpg_address *member_list,
	size_t member_count, const struct cpg_address *left, size_t left_count, const struct cpg_address *joined,
	size_t joined_count)
{
	members = member_count;
}

static void dispatch(cpg_handle_t handle, cs_dispatch_flags_t how)
{
	cs_error_t error = cpg_dispatch(handle, how);

	if (error != CS_OK)
		fail("dispatch", error);
}

static void mcast(cpg_handle_t handle, void *message, size_t size)
{
	struct iovec iov = { message, size };
	cs_error_t error;

	while ((error = cpg_mcast_joined(handle, CPG_TYPE_AGREED, &iov, 1)) == CS_ERR_TRY_AGAIN) {
		dispatch(handle, CS_DISPATCH_ALL);
		usleep(500);
	}
	if (error != CS_OK)
		fail("mcast", error);
}

int main(int argc, char **argv)
{
	cpg_callbacks_t callbacks = { deliver, confchg };
	cpg_handle_t handle;
	cs_error_t error;
	unsigned int digits;
	char text[32];
	int n;

	for (n = 0; argc > 2 && sscanf(argv[2] + 2 * n, "%2x", &digits) == 1; n++)
		group.value[group.length++] = digits;
	error = cpg_initialize(&handle, &callbacks);
	if (error != CS_OK)
		fail("initialize", error);
	while ((error = cpg_join(handle, &group)) == CS_ERR_TRY_AGAIN)
		usleep(1000);
	if (error != CS_OK)
		fail("join", error);
	while (members < 2)
		dispatch(handle, CS_DISPATCH_ONE);
	if (argc == 4) {
		uint64_t count = strtoull(argv[3], NULL, 10), random = 1147, sent, word;
		unsigned char *message = malloc(6 << 20);

		for (sent = 0; sent < count; sent++) {
			size_t size = length(&random), i;

			for (i = 0; i < size; i += 8) {
				word = next_random(&random);
				memcpy(message + i, &word, 8);
			}
			mcast(handle, message, size);
			dispatch(handle, CS_DISPATCH_ALL);
		}
		while (delivered < 2 * count)
			dispatch(handle, CS_DISPATCH_ONE);
		printf("hash %016llx\n", (unsigned long long)hash);
	} else {
		verbose = 1;
		snprintf(text, sizeof(text), "%d", (int)getpid());
		mcast(handle, text, strlen(text));
		while (others == 0)
			dispatch(handle, CS_DISPATCH_ONE);
	}
	cpg_finalize(handle);
	return 0;
}
