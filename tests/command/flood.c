/* Multicasts messages of 600,000 bytes by libcpg for so many seconds, and takes in what comes back.
 *
 * alternating SECONDS: sends one, then dispatches what there is.
 * threads SECONDS: sends on one thread, dispatches on another.
 *
 * Prints how many were sent, and, once all have come back in order, "whole".
 */
#include <corosync/cpg.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SIZE 600000

static volatile int joined;
static volatile uint64_t delivered, sent;
static volatile int ended;
static char message[SIZE];

static void fail(const char *what, int error)
{
	printf("%s: %d after %llu of %llu\n", what, error, (unsigned long long)delivered, (unsigned long long)sent);
	fflush(stdout);
	_exit(1);
}

static void deliver(cpg_handle_t handle, const struct cpg_name *name, uint32_t node, uint32_t pid, void *text,
	size_t size)
{
	uint64_t number;

	memcpy(&number, text, sizeof(number));
	if (size != SIZE || number != delivered)
		fail("out of order", (int)number);
	delivered++;
}

static void confchg(cpg_handle_t handle, const struct cpg_name *name, const struct cpg_address *member_list,
	size_t member_count, const struct cpg_address *left, size_t left_count, const struct cpg_address *new_list,
	size_t new_count)
{
	joined = 1;
}

static void dispatch(cpg_handle_t handle, cs_dispatch_flags_t how)
{
	cs_error_t error = cpg_dispatch(handle, how);

	if (error != CS_OK)
		fail("dispatch", error);
}

static void *drain(void *data)
{
	cpg_handle_t handle = *(cpg_handle_t *)data;

	while (!ended || delivered < sent)
		dispatch(handle, CS_DISPATCH_ONE);
	return NULL;
}

int main(int argc, char **argv)
{
	cpg_callbacks_t callbacks = { deliver, confchg };
	struct cpg_name group = { 5, "flood" };
	struct iovec iov = { message, SIZE };
	int threads = strcmp(argv[1], "threads") == 0;
	uint64_t refused = 0;
	pthread_t thread;
	cpg_handle_t handle;
	cs_error_t error;
	time_t end;

	error = cpg_initialize(&handle, &callbacks);
	if (error != CS_OK)
		fail("initialize", error);
	error = cpg_join(handle, &group);
	if (error != CS_OK)
		fail("join", error);
	while (!joined)
		dispatch(handle, CS_DISPATCH_ONE);
	if (threads)
		pthread_create(&thread, NULL, drain, &handle);
	end = time(NULL) + strtol(argv[2], NULL, 10);
	while (time(NULL) < end) {
		uint64_t number = sent;

		memcpy(message, &number, sizeof(number));
		error = cpg_mcast_joined(handle, CPG_TYPE_AGREED, &iov, 1);
		if (error == CS_OK)
			sent++;
		else if (error == CS_ERR_TRY_AGAIN)
			refused++;
		else
			fail("mcast", error);
		if (!threads)
			dispatch(handle, CS_DISPATCH_ALL);
		else if (error == CS_ERR_TRY_AGAIN)
			usleep(100);
	}
	printf("sent %llu, refused %llu\n", (unsigned long long)sent, (unsigned long long)refused);
	fflush(stdout);
	ended = 1;
	if (threads)
		pthread_join(thread, NULL);
	while (delivered < sent)
		dispatch(handle, CS_DISPATCH_ONE);
	printf("whole\n");
	return 0;
}
