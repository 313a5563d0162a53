/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Where the kernels of the examples run: one source, three ways to build it.
 *
 *   nvcc                               a CUDA program
 *   c++ -x c++                         no GPU: a thread of the CPU runs the kernel
 *   c++ -x c++ -DDEVRX_DRIVER_API      a GPU, and no toolkit: the driver's library is loaded when the program starts, and DEVRX_PTX names a file with the kernel as NVRTC compiled it
 */
#ifndef DEVRX_EXAMPLES_DEVICE_H
#define DEVRX_EXAMPLES_DEVICE_H

#if !defined(__CUDACC__)
#include <unistd.h>
#define __global__
#define __shared__ static
/* Who plays the GPU leaves the CPU to others. */
#define DEVRX_PAUSE() usleep(50)
#endif

/* The rest is for the host. */
#if !defined(__CUDACC_RTC__)
#include <cstdio>
#include <cstdlib>
#include <cstring>

/* Threads of the one block. */
#define DEVICE_THREADS 256

static inline void device_fail(const char *what, const char *why)
{
    std::fprintf(stderr, "%s: %s\n", what, why);
    std::exit(1);
}

/* A parameter as the kernel declares it, whatever it is called with. */
template <class T> struct device_as {
    typedef T type;
};

#if defined(__CUDACC__)

#define DEVICE_CHECK(call) \
    do { \
        cudaError_t result = (call); \
        if (result != cudaSuccess) \
            device_fail(#call, cudaGetErrorString(result)); \
    } while (0)

/* Memory that this process has mapped, for the GPU to read (and write): its pages stay where they are, and the GPU reaches them over PCIe. Its address there. */
static inline void *device_registered(const void *memory, unsigned long long size, bool read_only)
{
    void *there;
    DEVICE_CHECK(cudaHostRegister(const_cast<void *>(memory), size, cudaHostRegisterMapped | (read_only ? cudaHostRegisterReadOnly : 0)));
    DEVICE_CHECK(cudaHostGetDevicePointer(&there, const_cast<void *>(memory), 0));
    return there;
}

/* Memory of the GPU, zeros. */
static inline void *device_zeroed(unsigned long long size)
{
    void *there;
    DEVICE_CHECK(cudaMalloc(&there, size));
    DEVICE_CHECK(cudaMemset(there, 0, size));
    return there;
}

static inline void device_read(void *to, const void *there, unsigned long long size)
{
    DEVICE_CHECK(cudaMemcpy(to, there, size, cudaMemcpyDeviceToHost));
}

static inline void device_write(void *there, const void *from, unsigned long long size)
{
    DEVICE_CHECK(cudaMemcpy(there, from, size, cudaMemcpyHostToDevice));
}

/* Runs a kernel to its end, in one block. */
template <class... P> void device_run(const char *, void (*kernel)(P...), typename device_as<P>::type... arguments)
{
    kernel<<<1, DEVICE_THREADS>>>(arguments...);
    DEVICE_CHECK(cudaDeviceSynchronize());
}

#elif defined(DEVRX_DRIVER_API)
#include <dlfcn.h>

/* CUDA's driver API, as cuda.h declares it. */
struct device_driver {
    int (*init)(unsigned);
    int (*device)(int *, int);
    int (*retain)(void **, int);
    int (*current)(void *);
    int (*error)(int, const char **);
    int (*module)(void **, const void *);
    int (*function)(void **, void *, const char *);
    int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
    int (*synchronize)(void);
    int (*host_register)(void *, size_t, unsigned);
    int (*host_address)(unsigned long long *, void *, unsigned);
    int (*allocate)(unsigned long long *, size_t);
    int (*fill)(unsigned long long, unsigned char, size_t);
    int (*read)(void *, unsigned long long, size_t);
    int (*write)(unsigned long long, const void *, size_t);
    int (*host_allocate)(void **, size_t);
    int (*stream_create)(void **, unsigned);
    int (*event_create)(void **, unsigned);
    int (*event_record)(void *, void *);
    int (*event_query)(void *);
    int (*event_destroy)(void *);
    void *module_there;
};

static inline void device_check(const device_driver &driver, const char *call, int code)
{
    const char *why = nullptr;
    if (code == 0)
        return;
    driver.error(code, &why);
    device_fail(call, why ? why : "an error the driver has no name for");
}

#define DEVICE_CHECK(name, ...) device_check(driver, #name, driver.name(__VA_ARGS__))

template <class F> void device_find(void *library, F &function, const char *name)
{
    void *found = dlsym(library, name);
    if (!found)
        device_fail(name, "the driver does not have it");
    std::memcpy(&function, &found, sizeof found);
}

/* The driver, the first GPU's context, and the kernel's module. */
static inline device_driver &device_loaded()
{
    static device_driver driver;
    if (driver.init)
        return driver;
    void *library = dlopen("libcuda.so.1", RTLD_NOW), *context;
    if (!library)
        device_fail("there is no NVIDIA driver", dlerror());
    device_find(library, driver.device, "cuDeviceGet");
    device_find(library, driver.retain, "cuDevicePrimaryCtxRetain");
    device_find(library, driver.current, "cuCtxSetCurrent");
    device_find(library, driver.error, "cuGetErrorName");
    device_find(library, driver.module, "cuModuleLoadData");
    device_find(library, driver.function, "cuModuleGetFunction");
    device_find(library, driver.launch, "cuLaunchKernel");
    device_find(library, driver.synchronize, "cuCtxSynchronize");
    device_find(library, driver.host_register, "cuMemHostRegister_v2");
    device_find(library, driver.host_address, "cuMemHostGetDevicePointer_v2");
    device_find(library, driver.allocate, "cuMemAlloc_v2");
    device_find(library, driver.fill, "cuMemsetD8_v2");
    device_find(library, driver.read, "cuMemcpyDtoH_v2");
    device_find(library, driver.write, "cuMemcpyHtoD_v2");
    device_find(library, driver.host_allocate, "cuMemAllocHost_v2");
    device_find(library, driver.stream_create, "cuStreamCreate");
    device_find(library, driver.event_create, "cuEventCreate");
    device_find(library, driver.event_record, "cuEventRecord");
    device_find(library, driver.event_query, "cuEventQuery");
    device_find(library, driver.event_destroy, "cuEventDestroy_v2");
    device_find(library, driver.init, "cuInit");
    int device;
    DEVICE_CHECK(init, 0);
    DEVICE_CHECK(device, &device, 0);
    DEVICE_CHECK(retain, &context, device);
    DEVICE_CHECK(current, context);
    static char ptx[1 << 20];
    const char *path = std::getenv("DEVRX_PTX");
    std::FILE *file = path ? std::fopen(path, "r") : nullptr;
    if (!file)
        device_fail("DEVRX_PTX", "it must name the compiled kernel");
    ptx[std::fread(ptx, 1, sizeof ptx - 1, file)] = 0;
    std::fclose(file);
    DEVICE_CHECK(module, &driver.module_there, ptx);
    return driver;
}

static inline void *device_registered(const void *memory, unsigned long long size, bool read_only)
{
    device_driver &driver = device_loaded();
    unsigned long long there;
    /* DEVICEMAP, READ_ONLY */
    DEVICE_CHECK(host_register, const_cast<void *>(memory), size, read_only ? 10 : 2);
    DEVICE_CHECK(host_address, &there, const_cast<void *>(memory), 0);
    return (void *)there;
}

static inline void *device_zeroed(unsigned long long size)
{
    device_driver &driver = device_loaded();
    unsigned long long there;
    DEVICE_CHECK(allocate, &there, size);
    DEVICE_CHECK(fill, there, 0, size);
    return (void *)there;
}

static inline void device_read(void *to, const void *there, unsigned long long size)
{
    device_driver &driver = device_loaded();
    DEVICE_CHECK(read, to, (unsigned long long)there, size);
}

static inline void device_write(void *there, const void *from, unsigned long long size)
{
    device_driver &driver = device_loaded();
    DEVICE_CHECK(write, (unsigned long long)there, from, size);
}

template <class... P> void device_run(const char *name, void (*)(P...), typename device_as<P>::type... arguments)
{
    device_driver &driver = device_loaded();
    void *list[] = {&arguments...}, *kernel;
    DEVICE_CHECK(function, &kernel, driver.module_there, name);
    DEVICE_CHECK(launch, kernel, 1, 1, 1, DEVICE_THREADS, 1, 1, 0, nullptr, list, nullptr);
    DEVICE_CHECK(synchronize);
}

#else
#include <thread>

static inline void *device_registered(const void *memory, unsigned long long, bool)
{
    return const_cast<void *>(memory);
}

static inline void *device_zeroed(unsigned long long size)
{
    return std::calloc(1, size);
}

static inline void device_read(void *to, const void *there, unsigned long long size)
{
    std::memcpy(to, there, size);
}

static inline void device_write(void *there, const void *from, unsigned long long size)
{
    std::memcpy(there, from, size);
}

template <class... P> void device_run(const char *, void (*kernel)(P...), typename device_as<P>::type... arguments)
{
    std::thread gpu([&] { kernel(arguments...); });
    gpu.join();
}

#endif
#endif
#endif
