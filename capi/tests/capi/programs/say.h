/* Prints each call with its result, so that two libraries can be compared line by line. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <corosync/corotypes.h>

#define SAY(call) say(#call, (call))

__attribute__((unused)) static int say(const char *call, int result)
{
	printf("%s = %d\n", call, result);
	fflush(stdout);
	return result;
}

/* 1 if the descriptor becomes readable within a time. */
__attribute__((unused)) static int readable(int fd, int milliseconds)
{
	struct pollfd wanted = { .fd = fd, .events = POLLIN };

	return poll(&wanted, 1, milliseconds);
}

__attribute__((unused)) static const uint64_t NO_HANDLE = 0x1234567812345678ULL;
