/* Threads that load the library that is named, use it, unload it, and end. */
#include "say.h"
#include <dlfcn.h>
#include <corosync/cmap.h>

static const char *library;

static void *use(void *nothing)
{
	void *loaded = dlopen(library, RTLD_NOW);
	cs_error_t (*initialize)(cmap_handle_t *) =
		(cs_error_t (*)(cmap_handle_t *)) dlsym(loaded, "cmap_initialize");
	cs_error_t (*finalize)(cmap_handle_t) =
		(cs_error_t (*)(cmap_handle_t)) dlsym(loaded, "cmap_finalize");
	cmap_handle_t handle;

	SAY(initialize(&handle));
	SAY(finalize(handle));
	SAY(dlclose(loaded));
	return nothing;
}

int main(int count, char **arguments)
{
	pthread_t thread;
	int number;

	library = arguments[count - 1];
	for (number = 0; number < 2; number++) {
		pthread_create(&thread, NULL, use, NULL);
		pthread_join(thread, NULL);
	}
	return 0;
}
