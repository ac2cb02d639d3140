// A driver that computes nothing: it keeps account of what a GPU would be told.
//
// Compiled under the names of CUDA's libraries, it stands in for them on a machine without a GPU
// (host/engine/tests/recorded.rs). Memory is the process's own, so that what is copied to it can
// be read again; kernels and products are looked at and not made. Refused are launches of sizes
// that no card takes, or with more shared memory than was asked for, copies and fills beyond an
// array, an array that ends twice, and products without elements or beyond an array.

#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, CUBLAS_INVALID_VALUE = 7 };

// The card that it gives itself out for: an H200.
static const uint64_t CARD_BYTES = 140ull << 30;
static const unsigned MOST_SHARED = 232448, FREE_SHARED = 49152, MOST_THREADS = 1024, MOST_BLOCKS_ASIDE = 65535;

// What was told so far, and what is kept of the memory's pool; the test reads them by name.
uint64_t recorded_launches, recorded_products, recorded_waits, recorded_reads, recorded_returns, recorded_kept;

// The most memory that arrays find; the test writes it.
uint64_t recorded_limit = UINT64_MAX;

// Addresses that no array has had, pages of which come when they are touched.
static const uint64_t ADDRESSES = 16ull << 40, ALIGNED = 512, PAGE = 4096;
static uint64_t next_address, bytes_used, most_used;

// Before each array: how long it is, 0 where it has ended.
struct Header {
    uint64_t bytes;
    uint64_t unused[63];
};

static struct Header *header_of(uint64_t address) {
    return (struct Header *)(address - sizeof(struct Header));
}

// Arrays in the order of their addresses, those that have ended too, until they are swept out.
static uint64_t *arrays;
static size_t array_count, array_room;

static void sweep(void) {
    size_t kept = 0;
    for (size_t place = 0; place < array_count; place++)
        if (header_of(arrays[place])->bytes)
            arrays[kept++] = arrays[place];
    array_count = kept;
}

static int take(uint64_t *address, size_t bytes) {
    *address = 0;
    if (bytes == 0)
        return SUCCESS;
    if (!next_address) {
        void *start = mmap(0, ADDRESSES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (start == MAP_FAILED)
            return OUT_OF_MEMORY;
        next_address = (uint64_t)start;
    }
    if (array_count == array_room) {
        sweep();
        if (2 * array_count >= array_room) {
            array_room = array_room ? 2 * array_room : 4096;
            arrays = realloc(arrays, array_room * sizeof *arrays);
            if (!arrays)
                abort();
        }
    }
    const uint64_t whole = (bytes + ALIGNED - 1) / ALIGNED * ALIGNED;
    if (bytes_used + whole > recorded_limit)
        return OUT_OF_MEMORY;
    *address = next_address + sizeof(struct Header);
    header_of(*address)->bytes = bytes;
    arrays[array_count++] = *address;
    next_address = *address + whole;
    bytes_used += whole;
    if (bytes_used > most_used)
        most_used = bytes_used;
    return SUCCESS;
}

static int give(uint64_t address) {
    if (!address)
        return SUCCESS;
    struct Header *header = header_of(address);
    if (!header->bytes)
        return INVALID_VALUE;
    bytes_used -= (header->bytes + ALIGNED - 1) / ALIGNED * ALIGNED;
    // Its pages go, all but those that it shares.
    const uint64_t first = (address + PAGE - 1) / PAGE * PAGE, end = (address + header->bytes) / PAGE * PAGE;
    if (first < end)
        madvise((void *)first, end - first, MADV_DONTNEED);
    header->bytes = 0;
    return SUCCESS;
}

// Whether so many bytes from an address on lie in one array that has not ended.
static int there(uint64_t address, uint64_t bytes) {
    if (bytes == 0)
        return 1;
    size_t low = 0, high = array_count;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (arrays[middle] <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low > 0 && address + bytes <= arrays[low - 1] + header_of(arrays[low - 1])->bytes;
}

static int refuse(int code, const char *what) {
    fprintf(stderr, "the recording driver refuses %s\n", what);
    return code;
}

// A function of a module: its name, and how much memory of a block it was allowed.
struct Function {
    char *name;
    unsigned shared;
};

static int make(void **handle) {
    static uintptr_t made = 1 << 20;
    *handle = (void *)(made += 64);
    return SUCCESS;
}

// The device.

int cuInit(unsigned flags) { return SUCCESS; }
int cuDriverGetVersion(int *version) { return *version = 999000, SUCCESS; }
int cuDeviceGet(int *device, int number) { return *device = number, SUCCESS; }
int cuDeviceGetCount(int *count) { return *count = 1, SUCCESS; }
int cuDeviceGetName(char *name, int length, int device) { return strncpy(name, "recorded", length), SUCCESS; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { return *bytes = CARD_BYTES, SUCCESS; }
int cuMemGetInfo_v2(size_t *rest, size_t *whole) {
    *whole = CARD_BYTES;
    *rest = CARD_BYTES - bytes_used;
    return SUCCESS;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    switch (attribute) {
    case 1: *value = MOST_THREADS; break;
    case 8: *value = FREE_SHARED; break;
    case 10: *value = 32; break;
    case 16: *value = 132; break;
    case 75: *value = 9; break;
    case 76: *value = 0; break;
    case 97: *value = MOST_SHARED; break;
    default: *value = 1;
    }
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { return make(context); }
int cuDevicePrimaryCtxRelease_v2(int device) { return SUCCESS; }
int cuCtxGetCurrent(void **context) { return make(context); }
int cuCtxSetCurrent(void *context) { return SUCCESS; }
int cuCtxSynchronize(void) { return recorded_waits++, SUCCESS; }

// Modules.

int cuModuleLoadData(void **module, const void *image) { return make(module); }
int cuModuleUnload(void *module) { return SUCCESS; }
int cuModuleGetFunction(struct Function **function, void *module, const char *name) {
    *function = malloc(sizeof **function);
    **function = (struct Function){strdup(name), FREE_SHARED};
    return SUCCESS;
}
int cuFuncGetAttribute(int *value, int attribute, void *function) { return *value = attribute ? 0 : MOST_THREADS, SUCCESS; }
int cuFuncSetAttribute(struct Function *function, int attribute, int value) {
    if (attribute == 8)
        function->shared = value;
    return SUCCESS;
}
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *function, int threads, size_t shared) {
    return *blocks = 2, SUCCESS;
}
int cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, void *function, int threads, size_t shared,
                                                         unsigned flags) {
    return *blocks = 2, SUCCESS;
}
int cuLaunchKernel(const struct Function *function, unsigned x, unsigned y, unsigned z, unsigned threads_x,
                   unsigned threads_y, unsigned threads_z, unsigned shared, void *stream, void **arguments, void **more) {
    const uint64_t threads = (uint64_t)threads_x * threads_y * threads_z;
    if (!x || !y || !z || y > MOST_BLOCKS_ASIDE || z > MOST_BLOCKS_ASIDE || !threads || threads > MOST_THREADS ||
        shared > MOST_SHARED || shared > function->shared) {
        char what[256];
        snprintf(what, sizeof what, "a launch of %s: %u x %u x %u blocks of %u x %u x %u threads, %u bytes shared",
                 function->name, x, y, z, threads_x, threads_y, threads_z, shared);
        return refuse(INVALID_VALUE, what);
    }
    return recorded_launches++, SUCCESS;
}

// What a launch is, as the driver's CUlaunchConfig lies.
struct Launch {
    unsigned blocks[3], threads[3], shared;
    void *stream, *attributes;
    unsigned attribute_count;
};

int cuLaunchKernelEx(const struct Launch *launch, const struct Function *function, void **arguments, void **more) {
    const unsigned *blocks = launch->blocks, *threads = launch->threads;
    // The only one that is known here: that a kernel may be begun while the one before ends.
    const int EARLY = 6;
    if (launch->attribute_count > 1 || (launch->attribute_count && *(const int *)launch->attributes != EARLY))
        return refuse(INVALID_VALUE, "a launch with attributes that are not known");
    return cuLaunchKernel(function, blocks[0], blocks[1], blocks[2], threads[0], threads[1], threads[2],
                          launch->shared, launch->stream, arguments, more);
}

// Streams and events, which are over as soon as they are begun.

int cuStreamCreate(void **stream, unsigned flags) { return make(stream); }
int cuStreamCreateWithPriority(void **stream, unsigned flags, int priority) { return make(stream); }
int cuStreamDestroy_v2(void *stream) { return SUCCESS; }
int cuStreamSynchronize(void *stream) { return recorded_waits++, SUCCESS; }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) { return SUCCESS; }
int cuEventCreate(void **event, unsigned flags) { return make(event); }
int cuEventDestroy_v2(void *event) { return SUCCESS; }
int cuEventRecord(void *event, void *stream) { return SUCCESS; }
int cuEventQuery(void *event) { return SUCCESS; }
// Slots of lists wait so, for what is over long since.
int cuEventSynchronize(void *event) { return SUCCESS; }

// Memory.

int cuMemAllocAsync(uint64_t *address, size_t bytes, void *stream) { return take(address, bytes); }
int cuMemFreeAsync(uint64_t address, void *stream) {
    return give(address) ? refuse(INVALID_VALUE, "to free an array that has ended") : SUCCESS;
}
int cuMemHostAlloc(void **memory, size_t bytes, unsigned flags) {
    return (*memory = calloc(1, bytes)) ? SUCCESS : OUT_OF_MEMORY;
}
int cuMemFreeHost(void *memory) { return free(memory), SUCCESS; }
int cuDeviceGetDefaultMemPool(void **pool, int device) { return make(pool); }
int cuMemPoolGetAttribute(void *pool, int attribute, uint64_t *value) {
    // Reserved and used, now and at most: what is kept counts as given back.
    *value = attribute == 5 || attribute == 7 ? bytes_used : attribute == 6 || attribute == 8 ? most_used : 0;
    return SUCCESS;
}
int cuMemPoolSetAttribute(void *pool, int attribute, uint64_t *value) {
    if (attribute == 4)
        recorded_kept = *value;
    if (attribute == 6 || attribute == 8)
        most_used = bytes_used;
    return SUCCESS;
}
int cuMemPoolTrimTo(void *pool, size_t bytes) { return recorded_returns++, SUCCESS; }

static int copy(void *to, const void *from, uint64_t there_address, size_t bytes) {
    if (!there(there_address, bytes))
        return refuse(INVALID_VALUE, "a copy beyond an array");
    return memcpy(to, from, bytes), SUCCESS;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    return copy((void *)to, from, to, bytes);
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    recorded_reads++;
    return copy(to, (const void *)from, from, bytes);
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
    if (!there(from, bytes))
        return refuse(INVALID_VALUE, "a copy of more than an array");
    return copy((void *)to, (const void *)from, to, bytes);
}
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *stream) {
    if (!there(to, bytes))
        return refuse(INVALID_VALUE, "to fill more than an array");
    return memset((void *)to, value, bytes), SUCCESS;
}

// What errors are called; none of these texts belongs to the real driver.

int cuGetErrorName(int error, const char **name) { return *name = "RECORDED", SUCCESS; }
int cuGetErrorString(int error, const char **text) { return *text = "the recording driver has refused it", SUCCESS; }

// cuBLAS, and what candle opens beside it.

int cublasCreate_v2(void **handle) { return make(handle); }
int cublasDestroy_v2(void *handle) { return SUCCESS; }
int cublasSetStream_v2(void *handle, void *stream) { return SUCCESS; }
int cublasLtCreate(void **handle) { return make(handle); }
int cublasLtDestroy(void *handle) { return SUCCESS; }
int curandCreateGenerator(void **generator, int kind) { return make(generator); }
int curandDestroyGenerator(void *generator) { return SUCCESS; }
int curandSetPseudoRandomGeneratorSeed(void *generator, unsigned long long seed) { return SUCCESS; }
int curandSetStream(void *generator, void *stream) { return SUCCESS; }

// Bytes of an element: CUDA_R_16F and CUDA_R_16BF, CUDA_R_32F, CUDA_R_64F.
static uint64_t element(int type) { return type == 2 || type == 14 ? 2 : type == 0 ? 4 : 8; }

// Whether a matrix of columns one behind the other lies in an array.
static int matrix(uint64_t address, int type, int rows, int columns, int leading) {
    const uint64_t elements = (uint64_t)(columns - 1) * leading + rows;
    return rows <= leading && there(address, element(type) * elements);
}

int cublasGemmEx(void *handle, int a_across, int b_across, int m, int n, int k, const void *alpha, uint64_t a, int a_type,
                 int a_leading, uint64_t b, int b_type, int b_leading, const void *beta, uint64_t c, int c_type,
                 int c_leading, int compute, int algorithm) {
    if (m <= 0 || n <= 0 || k <= 0 || !matrix(a, a_type, a_across ? k : m, a_across ? m : k, a_leading) ||
        !matrix(b, b_type, b_across ? n : k, b_across ? k : n, b_leading) || !matrix(c, c_type, m, n, c_leading)) {
        char what[256];
        snprintf(what, sizeof what, "a product of %d x %d x %d, rows apart by %d, %d and %d: it reaches beyond an array",
                 m, n, k, a_leading, b_leading, c_leading);
        return refuse(CUBLAS_INVALID_VALUE, what);
    }
    return recorded_products++, SUCCESS;
}

int cublasGemmStridedBatchedEx(void *handle, int a_across, int b_across, int m, int n, int k, const void *alpha,
                               uint64_t a, int a_type, int a_leading, long long a_stride, uint64_t b, int b_type,
                               int b_leading, long long b_stride, const void *beta, uint64_t c, int c_type, int c_leading,
                               long long c_stride, int count, int compute, int algorithm) {
    for (long long place = 0; place < count; place++) {
        const int code = cublasGemmEx(handle, a_across, b_across, m, n, k, alpha, a + place * a_stride * element(a_type),
                                      a_type, a_leading, b + place * b_stride * element(b_type), b_type, b_leading, beta,
                                      c + place * c_stride * element(c_type), c_type, c_leading, compute, algorithm);
        if (code)
            return code;
    }
    return count > 0 ? SUCCESS : refuse(CUBLAS_INVALID_VALUE, "a batch of no products");
}
