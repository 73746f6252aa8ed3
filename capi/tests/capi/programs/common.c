#include "say.h"

int main(void)
{
	int number;

	for (number = -1; number <= 101; number++) {
		printf("cs_strerror(%d) = %s\n", number, cs_strerror(number));
	}
	for (number = -140; number <= 2; number++) {
		printf("qb_to_cs_error(%d) = %d\n", number, qb_to_cs_error(number));
		printf("hdb_error_to_cs(%d) = %d\n", number, hdb_error_to_cs(number));
	}
	return 0;
}
