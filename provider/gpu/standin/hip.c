/* Plays libamdhip64.so and libhsa-runtime64.so.1 for the tests of what is refused and what is undone: see cuda.c. */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>

#ifndef DEVICES
#define DEVICES 1
#endif
#ifndef FAIL_hipInit
#define FAIL_hipInit 0
#endif
#ifndef FAIL_hipMalloc
#define FAIL_hipMalloc 0
#endif
#ifndef FAIL_hipMemset
#define FAIL_hipMemset 0
#endif
#ifndef FAIL_export
#define FAIL_export 0
#endif
#ifndef FAIL_hipHostGetDevicePointer
#define FAIL_hipHostGetDevicePointer 0
#endif

/* Allocations and registrations that were not given back; the device of the calling thread counts too, when it is another than before. */
static int allocations, registrations, device;

int standin_held(void)
{
	return allocations + registrations + device;
}

int hipInit(unsigned flags) { return FAIL_hipInit ? FAIL_hipInit : flags != 0; }
int hipRuntimeGetVersion(int *version) { *version = 60342134; return 0; }
int hipGetDeviceCount(int *count) { *count = DEVICES; return 0; }
int hipGetDevice(int *out) { *out = device; return 0; }
int hipSetDevice(int to) { device = to; return to < 0 || to >= DEVICES; }
int hipDeviceGetPCIBusId(char *id, int len, int of) { snprintf(id, len, "0000:03:00.0"); return of < 0 || of >= DEVICES; }

int hipMalloc(void **out, size_t size)
{
	if (FAIL_hipMalloc)
		return FAIL_hipMalloc;
	allocations++;
	*out = (void *)0x7000000000;
	return size % (2 << 20) != 0 || device != DEVICES - 1;
}

int hipFree(void *p) { allocations--; return p != (void *)0x7000000000; }
int hipMemset(void *p, int value, size_t size) { return FAIL_hipMemset ? FAIL_hipMemset : !p || value || !size; }
int hipDeviceSynchronize(void) { return 0; }
int hipHostRegister(void *p, size_t size, unsigned flags) { registrations++; return !p || !size || flags != 3; }
int hipHostUnregister(void *p) { registrations--; return !p; }

int hipHostGetDevicePointer(void **out, void *p, unsigned flags)
{
	*out = p;
	return FAIL_hipHostGetDevicePointer ? FAIL_hipHostGetDevicePointer : flags != 0;
}

const char *hipGetErrorName(int error) { return error == 2 ? "hipErrorOutOfMemory" : error == 100 ? "hipErrorNoDevice" : "hipErrorUnknown"; }

#ifndef LACKS_export
int hsa_init(void) { return 0; }

int hsa_amd_portable_export_dmabuf(const void *p, size_t size, int *fd, uint64_t *offset)
{
	if (FAIL_export)
		return FAIL_export;
	*fd = memfd_create("standin-dmabuf", 0);
	*offset = 0;
	return !p || size % (2 << 20);
}
#endif
