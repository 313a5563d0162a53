/* Plays libcuda.so.1 for the tests of what is refused, and of what is undone when a step fails. It has no GPU behind it: what is allocated holds
 * nothing, and what is exported is an empty memfd, which is no dma-buf. What a GPU does is tested on one.
 *
 * A test compiles it with what it wants answered: -DATTRIBUTE_124=0, -DFAIL_cuMemMap=2, -DDEVICES=0, -DVERSION=12080, -DLACKS_cuMemCreate.
 * Layouts and numbers are written here once more, as cuda.h has them, so that this also checks those in src/cuda/sys.rs.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef DEVICES
#define DEVICES 1
#endif
#ifndef VERSION
#define VERSION 13030
#endif
#ifndef PCI
#define PCI "0000:3B:00.0"
#endif
#ifndef UNIT
#define UNIT (2 << 20)
#endif

/* What an attribute is unless a test says otherwise: a GPU of a data centre with the newest driver. */
#ifndef ATTRIBUTE_18
#define ATTRIBUTE_18 0
#endif
#ifndef ATTRIBUTE_99
#define ATTRIBUTE_99 1
#endif
#ifndef ATTRIBUTE_102
#define ATTRIBUTE_102 1
#endif
#ifndef ATTRIBUTE_103
#define ATTRIBUTE_103 1
#endif
#ifndef ATTRIBUTE_110
#define ATTRIBUTE_110 1
#endif
#ifndef ATTRIBUTE_113
#define ATTRIBUTE_113 1
#endif
#ifndef ATTRIBUTE_116
#define ATTRIBUTE_116 1
#endif
#ifndef ATTRIBUTE_118
#define ATTRIBUTE_118 200
#endif
#ifndef ATTRIBUTE_124
#define ATTRIBUTE_124 1
#endif
#ifndef ATTRIBUTE_152
#define ATTRIBUTE_152 1
#endif

/* A function fails with the code that a test gives it. */
#ifndef FAIL_cuInit
#define FAIL_cuInit 0
#endif
#ifndef FAIL_cuMemCreate
#define FAIL_cuMemCreate 0
#endif
#ifndef FAIL_cuMemAddressReserve
#define FAIL_cuMemAddressReserve 0
#endif
#ifndef FAIL_cuMemMap
#define FAIL_cuMemMap 0
#endif
#ifndef FAIL_cuMemSetAccess
#define FAIL_cuMemSetAccess 0
#endif
#ifndef FAIL_cuMemsetD8_v2
#define FAIL_cuMemsetD8_v2 0
#endif
#ifndef FAIL_cuMemGetHandleForAddressRange
#define FAIL_cuMemGetHandleForAddressRange 0
#endif
#ifndef FAIL_cuMemHostRegister_v2
#define FAIL_cuMemHostRegister_v2 0
#endif
#ifndef FAIL_cuMemHostUnregister
#define FAIL_cuMemHostUnregister 0
#endif

typedef int CUresult;
typedef unsigned long long CUdeviceptr;
typedef unsigned long long CUmemory;
typedef struct { int type; int id; } CUmemLocation;
typedef struct {
	int type;
	int requestedHandleTypes;
	CUmemLocation location;
	void *win32HandleMetaData;
	struct {
		unsigned char compressionType;
		unsigned char gpuDirectRDMACapable;
		unsigned short usage;
		unsigned char reserved[4];
	} allocFlags;
} CUmemAllocationProp;
typedef struct { CUmemLocation location; int flags; } CUmemAccessDesc;

/* What is held: contexts retained, contexts pushed, memory, addresses, mappings, registrations. All 0 when everything was given back. */
static int retained, pushed, memory, addresses, mappings, registrations;
/* What was begun, and not waited for. */
static int begun;

int standin_held(void)
{
	return retained + pushed + memory + addresses + mappings + registrations + begun;
}

static int exact(int good)
{
	return good ? 0 : 1;
}

CUresult cuInit(unsigned flags) { return FAIL_cuInit ? FAIL_cuInit : exact(flags == 0); }
CUresult cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
CUresult cuDeviceGetCount(int *count) { *count = DEVICES; return 0; }

CUresult cuDeviceGet(int *device, int ordinal)
{
	if (ordinal < 0 || ordinal >= DEVICES)
		return 101;
	*device = ordinal + 7; /* not the number it was asked for */
	return 0;
}

CUresult cuDeviceGetName(char *name, int len, int device)
{
	snprintf(name, len, "stand-in");
	return exact(device >= 7);
}

CUresult cuDeviceGetPCIBusId(char *id, int len, int device)
{
	snprintf(id, len, "%s", PCI);
	return exact(device >= 7);
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 1ull << 34; return exact(device >= 7); }

CUresult cuDeviceGetAttribute(int *value, int attribute, int device)
{
	switch (attribute) {
	case 18: *value = ATTRIBUTE_18; break;
	case 99: *value = ATTRIBUTE_99; break;
	case 102: *value = ATTRIBUTE_102; break;
	case 103: *value = ATTRIBUTE_103; break;
	case 110: *value = ATTRIBUTE_110; break;
	case 113: *value = ATTRIBUTE_113; break;
	case 116: *value = ATTRIBUTE_116; break;
	case 118: *value = ATTRIBUTE_118; break;
	case 124: *value = ATTRIBUTE_124; break;
	case 152: *value = ATTRIBUTE_152; break;
	default: return 1;
	}
	/* A driver that does not know the attribute. */
	if (*value == -1)
		return 1;
	return exact(device >= 7);
}

static int context;
CUresult cuDevicePrimaryCtxRetain(void **out, int device) { retained++; *out = &context; return exact(device >= 7); }
CUresult cuDevicePrimaryCtxRelease_v2(int device) { retained--; return exact(device >= 7); }
CUresult cuCtxPushCurrent_v2(void *c) { pushed++; return exact(c == &context && retained > 0); }
CUresult cuCtxPopCurrent_v2(void **c) { pushed--; *c = &context; return 0; }
CUresult cuCtxSynchronize(void) { begun = 0; return exact(pushed > 0); }

static int prop_is_right(const CUmemAllocationProp *prop)
{
	return prop->type == 1 && prop->requestedHandleTypes == 1 && prop->location.type == 1 && prop->location.id >= 0 &&
	       prop->location.id < DEVICES && prop->win32HandleMetaData == NULL && prop->allocFlags.compressionType == 0 &&
	       prop->allocFlags.gpuDirectRDMACapable == (ATTRIBUTE_110 == 1) && prop->allocFlags.usage == 0 &&
	       !memcmp(prop->allocFlags.reserved, "\0\0\0\0", 4);
}

CUresult cuMemGetAllocationGranularity(size_t *bytes, const CUmemAllocationProp *prop, int option)
{
	*bytes = UNIT;
	return exact(prop_is_right(prop) && option == 0);
}

#ifndef LACKS_cuMemCreate
CUresult cuMemCreate(CUmemory *handle, size_t size, const CUmemAllocationProp *prop, unsigned long long flags)
{
	if (FAIL_cuMemCreate)
		return FAIL_cuMemCreate;
	if (!prop_is_right(prop) || size % UNIT || flags)
		return 1;
	*handle = 99;
	memory++;
	return 0;
}
#endif

CUresult cuMemRelease(CUmemory handle) { memory--; return exact(handle == 99); }

CUresult cuMemAddressReserve(CUdeviceptr *p, size_t size, size_t alignment, CUdeviceptr hint, unsigned long long flags)
{
	if (FAIL_cuMemAddressReserve)
		return FAIL_cuMemAddressReserve;
	if (size % UNIT || alignment || hint || flags)
		return 1;
	*p = 0x7000000000;
	addresses++;
	return 0;
}

CUresult cuMemAddressFree(CUdeviceptr p, size_t size) { addresses--; return exact(p == 0x7000000000 && size); }

CUresult cuMemMap(CUdeviceptr p, size_t size, size_t offset, CUmemory handle, unsigned long long flags)
{
	if (FAIL_cuMemMap)
		return FAIL_cuMemMap;
	if (p != 0x7000000000 || size % UNIT || offset || handle != 99 || flags)
		return 1;
	mappings++;
	return 0;
}

CUresult cuMemUnmap(CUdeviceptr p, size_t size) { mappings--; return exact(p && size); }

CUresult cuMemSetAccess(CUdeviceptr p, size_t size, const CUmemAccessDesc *desc, size_t count)
{
	if (FAIL_cuMemSetAccess)
		return FAIL_cuMemSetAccess;
	return exact(p && size && count == 1 && desc->location.type == 1 && desc->location.id < DEVICES && desc->flags == 3);
}

CUresult cuMemExportToShareableHandle(void *out, CUmemory handle, int type, unsigned long long flags)
{
	if (handle != 99 || type != 1 || flags)
		return 1;
	*(int *)out = memfd_create("standin-export", 0);
	return 0;
}

CUresult cuMemImportFromShareableHandle(CUmemory *handle, void *fd, int type)
{
	if (type != 1 || fcntl((int)(uintptr_t)fd, F_GETFD) < 0)
		return 1;
	*handle = 99;
	memory++;
	return 0;
}

#ifndef LACKS_cuMemGetHandleForAddressRange
CUresult cuMemGetHandleForAddressRange(void *out, CUdeviceptr p, size_t size, int type, unsigned long long flags)
{
	if (FAIL_cuMemGetHandleForAddressRange)
		return FAIL_cuMemGetHandleForAddressRange;
	if (p != 0x7000000000 || size % 4096 || type != 1 || flags)
		return 1;
	*(int *)out = memfd_create("standin-dmabuf", 0);
	return 0;
}
#endif

CUresult cuMemHostRegister_v2(void *p, size_t size, unsigned flags)
{
	if (FAIL_cuMemHostRegister_v2)
		return FAIL_cuMemHostRegister_v2;
	registrations++;
	return exact(p && size && (flags & 3) == 3 && !(flags & ~11u));
}

CUresult cuMemHostUnregister(void *p)
{
	if (FAIL_cuMemHostUnregister)
		return FAIL_cuMemHostUnregister;
	registrations--;
	return exact(p != NULL);
}

CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *out, void *p, unsigned flags) { *out = (uintptr_t)p; return exact(!flags); }

CUresult cuMemsetD8_v2(CUdeviceptr p, unsigned char byte, size_t n)
{
	(void)byte;
	if (FAIL_cuMemsetD8_v2)
		return FAIL_cuMemsetD8_v2;
	begun++;
	return exact(p && n && pushed > 0);
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr p, const void *from, size_t n) { return exact(p && from && n); }
CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr p, size_t n) { memset(to, 0, n); return exact(p && n); }
CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t n) { return exact(to && from && n && pushed > 0); }
CUresult cuFlushGPUDirectRDMAWrites(int target, int scope) { return exact(target == 0 && scope == 100 && pushed > 0); }

CUresult cuGetErrorName(CUresult code, const char **name)
{
	*name = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : code == 801 ? "CUDA_ERROR_NOT_SUPPORTED" : code == 100 ? "CUDA_ERROR_NO_DEVICE" : NULL;
	return *name ? 0 : 1;
}
