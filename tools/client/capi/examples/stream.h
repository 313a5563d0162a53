/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A stream of work for the examples, in the three ways of device.h: work is given to it, runs in order, and a mark says later whether the stream has passed it. Without a GPU
 * a thread of the CPU is the stream.
 */
#ifndef DEVRX_EXAMPLES_STREAM_H
#define DEVRX_EXAMPLES_STREAM_H

#include "device.h"

#if !defined(__CUDACC_RTC__)

#if defined(__CUDACC__)

/* Memory of the host that the GPU reads and writes at the same address; zeros. */
static inline void *device_shared(unsigned long long size)
{
    void *memory;
    DEVICE_CHECK(cudaHostAlloc(&memory, size, cudaHostAllocMapped));
    std::memset(memory, 0, size);
    return memory;
}

struct device_stream {
    typedef cudaEvent_t mark_type;
    cudaStream_t stream;

    device_stream()
    {
        DEVICE_CHECK(cudaStreamCreate(&stream));
    }
    template <class... P> void run(const char *, unsigned blocks, void (*kernel)(P...), typename device_as<P>::type... arguments)
    {
        kernel<<<blocks, DEVICE_THREADS, 0, stream>>>(arguments...);
        DEVICE_CHECK(cudaGetLastError());
    }
    mark_type mark()
    {
        mark_type made;
        DEVICE_CHECK(cudaEventCreateWithFlags(&made, cudaEventDisableTiming));
        DEVICE_CHECK(cudaEventRecord(made, stream));
        return made;
    }
    /* Whether all work before the mark is done. Then the mark is no more. */
    bool passed(mark_type mark)
    {
        cudaError_t result = cudaEventQuery(mark);
        if (result == cudaErrorNotReady)
            return false;
        DEVICE_CHECK(result);
        DEVICE_CHECK(cudaEventDestroy(mark));
        return true;
    }
};

#elif defined(DEVRX_DRIVER_API)

static inline void *device_shared(unsigned long long size)
{
    device_driver &driver = device_loaded();
    void *memory;
    DEVICE_CHECK(host_allocate, &memory, size);
    std::memset(memory, 0, size);
    return memory;
}

struct device_stream {
    typedef void *mark_type;
    void *stream;

    device_stream()
    {
        device_driver &driver = device_loaded();
        DEVICE_CHECK(stream_create, &stream, 0);
    }
    template <class... P> void run(const char *name, unsigned blocks, void (*)(P...), typename device_as<P>::type... arguments)
    {
        device_driver &driver = device_loaded();
        void *list[] = {&arguments...}, *kernel;
        DEVICE_CHECK(function, &kernel, driver.module_there, name);
        DEVICE_CHECK(launch, kernel, blocks, 1, 1, DEVICE_THREADS, 1, 1, 0, stream, list, nullptr);
    }
    mark_type mark()
    {
        device_driver &driver = device_loaded();
        mark_type made;
        /* CU_EVENT_DISABLE_TIMING */
        DEVICE_CHECK(event_create, &made, 2);
        DEVICE_CHECK(event_record, made, stream);
        return made;
    }
    bool passed(mark_type mark)
    {
        device_driver &driver = device_loaded();
        int code = driver.event_query(mark);
        /* CUDA_ERROR_NOT_READY */
        if (code == 600)
            return false;
        device_check(driver, "event_query", code);
        DEVICE_CHECK(event_destroy, mark);
        return true;
    }
};

#else
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>

static inline void *device_shared(unsigned long long size)
{
    return std::calloc(1, size);
}

struct device_stream {
    typedef unsigned long long mark_type;
    std::mutex lock;
    std::condition_variable more;
    std::deque<std::function<void()>> work;
    std::atomic<unsigned long long> done;
    unsigned long long given;
    std::thread thread;

    device_stream() : done(0), given(0), thread([this] { serve(); })
    {
    }
    ~device_stream()
    {
        give(nullptr);
        thread.join();
    }
    void serve()
    {
        for (;;) {
            std::unique_lock<std::mutex> held(lock);
            more.wait(held, [this] { return !work.empty(); });
            std::function<void()> next = work.front();
            work.pop_front();
            held.unlock();
            if (!next)
                return;
            /* A GPU is slower to begin than this thread. */
            usleep(500);
            next();
            done += 1;
        }
    }
    void give(std::function<void()> what)
    {
        std::lock_guard<std::mutex> held(lock);
        work.push_back(what);
        given += 1;
        more.notify_one();
    }
    template <class... P> void run(const char *, unsigned, void (*kernel)(P...), typename device_as<P>::type... arguments)
    {
        give([=] { kernel(arguments...); });
    }
    mark_type mark()
    {
        return given;
    }
    bool passed(mark_type mark)
    {
        return done >= mark;
    }
};

#endif
#endif
#endif
