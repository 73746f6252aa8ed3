/* libqb's own server, which answers each request with its payload. */

#include <stdint.h>
#include <stdlib.h>
#include <sys/uio.h>

#include <qb/qbipcs.h>
#include <qb/qbloop.h>

static qb_loop_t *loop;

static int32_t accept_all(qb_ipcs_connection_t *connection, uid_t uid, gid_t gid)
{
	(void)connection; (void)uid; (void)gid;
	return 0;
}

static int32_t echo(qb_ipcs_connection_t *connection, void *data, size_t size)
{
	struct qb_ipc_request_header *request = data;
	struct qb_ipc_response_header header = { .id = request->id, .error = 1 };
	struct iovec parts[2] = { { &header, sizeof header }, { request + 1, size - sizeof *request } };

	header.size = (int32_t)(sizeof header + parts[1].iov_len);
	if (qb_ipcs_response_sendv(connection, parts, 2) < 0)
		abort();
	return 0;
}

static int32_t add_job(enum qb_loop_priority priority, void *data, qb_loop_job_dispatch_fn job)
{
	return qb_loop_job_add(loop, priority, data, job);
}

static int32_t add(enum qb_loop_priority priority, int32_t fd, int32_t events, void *data, qb_ipcs_dispatch_fn_t job)
{
	return qb_loop_poll_add(loop, priority, fd, events, data, job);
}

static int32_t change(enum qb_loop_priority priority, int32_t fd, int32_t events, void *data, qb_ipcs_dispatch_fn_t job)
{
	return qb_loop_poll_mod(loop, priority, fd, events, data, job);
}

static int32_t take_away(int32_t fd)
{
	return qb_loop_poll_del(loop, fd);
}

/* Serves until the process ends. */
_Noreturn void c_serve(const char *name)
{
	struct qb_ipcs_service_handlers handlers = { .connection_accept = accept_all, .msg_process = echo };
	struct qb_ipcs_poll_handlers poll = { add_job, add, change, take_away };
	qb_ipcs_service_t *service;

	loop = qb_loop_create();
	service = qb_ipcs_create(name, 0, QB_IPC_SHM, &handlers);
	qb_ipcs_poll_handlers_set(service, &poll);
	if (qb_ipcs_run(service) < 0)
		abort();
	qb_loop_run(loop);
	abort();
}
