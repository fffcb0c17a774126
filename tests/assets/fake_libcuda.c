/* A double of NVIDIA's driver library on host memory, so that NVIDIA's own cuda-core and cuda-bindings can run without a GPU.

   Build: cc -shared -fPIC -Wl,-soname,libcuda.so.1 -o libcuda.so.1 fake_libcuda.c -lpthread -ldl

   Work enqueued on a stream runs when the stream, or an event recorded in it, is synchronized, and not before. Memory that
   nobody wrote holds 0xCD. An access outside of a live allocation is CUDA_ERROR_ILLEGAL_ADDRESS, and stays. Only what the
   adapters call is here; all else is CUDA_ERROR_NOT_FOUND to cuGetProcAddress. Names, argument orders and numbers are those of
   CUDA's driver API reference. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_CONTEXT = 201, INVALID_HANDLE = 400,
       NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700, CAPTURE_UNSUPPORTED = 900 };
enum { COPY, FILL, FREE, RECORD, WAIT };
/* FAKE_LIBCUDA_FAULT names what goes wrong. */
static int fault(const char *name) { const char *f = getenv("FAKE_LIBCUDA_FAULT"); return f && !strcmp(f, name); }

#define DEVICE_BYTES (64u << 20)

typedef struct event { int timing; long asked, passed; double passed_ms; struct stream *stream; int closed; } event;
typedef struct op { int kind; char *to; const char *from; size_t n; unsigned char value; event *mark; long asked; struct op *next; } op;
typedef struct pool { uint64_t threshold, used, high, bound; } pool;
typedef struct queue { op *first, *last; } queue;
typedef struct stream { queue work, recorded; int capturing, closed; } stream;
typedef struct block { char *at; size_t n; pool *of; int pinned; struct block *next; } block;

static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static block *blocks;
static uint64_t device_used;
static int initialized_by, sticky, context_marker;
static __thread void *current;

#define BEGIN pthread_mutex_lock(&lock)
#define END(status) do { int s_ = (status); pthread_mutex_unlock(&lock); return s_; } while (0)
#define NEED do { if (initialized_by != getpid_()) return NOT_INITIALIZED; if (sticky) return sticky; } while (0)
#define NEED_CONTEXT do { NEED; if (!current) return INVALID_CONTEXT; } while (0)

#include <unistd.h>
static int getpid_(void) { return (int)getpid(); }

static block **find(const char *at, size_t n) {
    for (block **b = &blocks; *b; b = &(*b)->next)
        if ((*b)->at <= at && at + n <= (*b)->at + (*b)->n) return b;
    return NULL;
}

static block *add(size_t n, pool *of, int pinned) {
    block *b = calloc(1, sizeof *b);
    b->at = aligned_alloc(512, (n + 511) / 512 * 512);
    memset(b->at, 0xCD, n);
    b->n = n; b->of = of; b->pinned = pinned; b->next = blocks; blocks = b;
    return b;
}

static void drop(block **where) {
    block *b = *where;
    memset(b->at, 0xDD, b->n);  /* kept, not freed: the address is never handed out again, so a late use is found */
    *where = b->next;
    if (!b->pinned && !b->of) device_used -= b->n;
}

static void push(queue *q, op one) {
    op *o = malloc(sizeof *o);
    *o = one; o->next = NULL;
    if (q->last) q->last->next = o; else q->first = o;
    q->last = o;
}

static void run(stream *s, event *until, long asked);

static void perform(op *o) {
    struct timespec now;
    block **b;
    if (sticky) return;
    switch (o->kind) {
    case COPY: if (!find(o->to, o->n) || !find(o->from, o->n)) sticky = ILLEGAL_ADDRESS; else memcpy(o->to, o->from, o->n); break;
    case FILL: if (!find(o->to, o->n)) sticky = ILLEGAL_ADDRESS; else memset(o->to, o->value, o->n); break;
    case FREE: if ((b = find(o->to, 1))) drop(b); break;
    case WAIT: if (o->mark->stream) run(o->mark->stream, o->mark, o->asked); break;
    case RECORD:
        clock_gettime(CLOCK_MONOTONIC, &now);
        o->mark->passed = o->asked;
        o->mark->passed_ms = now.tv_sec * 1e3 + now.tv_nsec / 1e6;
    }
}

static void run(stream *s, event *until, long asked) {
    while (s->work.first && !(until && until->passed >= asked)) {
        op *o = s->work.first;
        s->work.first = o->next;
        if (!o->next) s->work.last = NULL;
        perform(o);
        free(o);
    }
}

static int enqueue(stream *s, op one) {
    NEED_CONTEXT;
    if (!s || s->closed) return INVALID_HANDLE;
    BEGIN;
    push(s->capturing ? &s->recorded : &s->work, one);
    END(OK);
}

/* Start, device, context */
int cuInit(unsigned flags) { (void)flags; if (fault("no device")) return NO_DEVICE; initialized_by = initialized_by ? initialized_by : getpid_(); return initialized_by == getpid_() ? OK : NOT_INITIALIZED; }
int cuDriverGetVersion(int *v) { *v = 13000; return OK; }
int cuDeviceGetCount(int *n) { NEED; *n = 1; return OK; }
int cuDeviceGet(int *d, int i) { NEED; *d = i; return i == 0 ? OK : 101; }
int cuDeviceGetAttribute(int *v, int a, int d) { (void)d; NEED; *v = a == 75 ? 9 : a == 76 ? 0 : 1; return OK; }
int cuDeviceGetName(char *s, int n, int d) { (void)d; NEED; snprintf(s, n, "double of a GPU"); return OK; }
int cuDevicePrimaryCtxRetain(void **c, int d) { (void)d; NEED; *c = &context_marker; return OK; }
int cuDevicePrimaryCtxRelease(int d) { (void)d; return OK; }
int cuDevicePrimaryCtxRelease_v2(int d) { return cuDevicePrimaryCtxRelease(d); }
int cuCtxGetCurrent(void **c) { NEED; *c = current; return OK; }
int cuCtxSetCurrent(void *c) { NEED; current = c; return OK; }
int cuCtxPushCurrent(void *c) { NEED; current = c; return OK; }
int cuCtxPopCurrent(void **c) { NEED; if (c) *c = current; current = NULL; return OK; }
int cuCtxGetDevice(int *d) { NEED_CONTEXT; *d = 0; return OK; }
int cuCtxGetDevice_v2(int *d, void *c) { (void)c; NEED; *d = 0; return OK; }
int cuCtxGetStreamPriorityRange(int *least, int *greatest) { NEED_CONTEXT; *least = 0; *greatest = -5; return OK; }
int cuCtxSynchronize(void) { NEED_CONTEXT; return OK; }
int cuGetErrorName(int e, const char **s) {
    *s = e == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : e == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS"
       : e == INVALID_VALUE ? "CUDA_ERROR_INVALID_VALUE" : e == INVALID_HANDLE ? "CUDA_ERROR_INVALID_HANDLE"
       : e == NOT_INITIALIZED ? "CUDA_ERROR_NOT_INITIALIZED" : e == INVALID_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT"
       : e == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : e == NOT_READY ? "CUDA_ERROR_NOT_READY" : "CUDA_ERROR_UNKNOWN";
    return OK;
}
int cuGetErrorString(int e, const char **s) { *s = e == OUT_OF_MEMORY ? "out of memory" : "see the name"; return OK; }

/* Streams and events */
int cuStreamCreateWithPriority(stream **s, unsigned flags, int priority) { (void)priority; NEED_CONTEXT; if (flags != 1) return INVALID_VALUE; *s = calloc(1, sizeof **s); return OK; }
int cuStreamCreate(stream **s, unsigned flags) { return cuStreamCreateWithPriority(s, flags, 0); }
int cuStreamDestroy(stream *s) { if (!s || s->closed) return INVALID_HANDLE; BEGIN; run(s, NULL, 0); s->closed = 1; END(OK); }
int cuStreamGetCtx(stream *s, void **c) { (void)s; NEED; *c = &context_marker; return OK; }
int cuStreamGetFlags(stream *s, unsigned *f) { (void)s; *f = 1; return OK; }
int cuStreamGetPriority(stream *s, int *p) { (void)s; *p = 0; return OK; }
int cuStreamSynchronize(stream *s) {
    NEED_CONTEXT;
    if (!s || s->closed) return INVALID_HANDLE;
    if (s->capturing) return CAPTURE_UNSUPPORTED;
    BEGIN; run(s, NULL, 0); END(sticky);
}
int cuEventCreate(event **e, unsigned flags) { NEED_CONTEXT; *e = calloc(1, sizeof **e); (*e)->timing = !(flags & 2); return OK; }
int cuEventDestroy(event *e) { if (!e || e->closed) return INVALID_HANDLE; e->closed = 1; return OK; }
int cuEventRecord(event *e, stream *s) { op o = {.kind = RECORD, .mark = e, .asked = ++e->asked}; e->stream = s; return enqueue(s, o); }
int cuEventRecordWithFlags(event *e, stream *s, unsigned f) { (void)f; return cuEventRecord(e, s); }
int cuStreamWaitEvent(stream *s, event *e, unsigned f) { (void)f; op o = {.kind = WAIT, .mark = e, .asked = e->asked}; return enqueue(s, o); }
int cuEventSynchronize(event *e) { NEED; if (e->stream) { BEGIN; run(e->stream, e, e->asked); END(sticky); } return OK; }
int cuEventQuery(event *e) { NEED; return e->passed >= e->asked ? OK : NOT_READY; }
int cuEventElapsedTime(float *ms, event *a, event *b) {
    NEED;
    if (!a->timing || !b->timing || !a->asked || !b->asked) return INVALID_HANDLE;
    if (a->passed < a->asked || b->passed < b->asked) return NOT_READY;
    *ms = (float)(b->passed_ms - a->passed_ms);
    return OK;
}

/* Memory */
int cuMemGetInfo(size_t *available, size_t *total) { NEED_CONTEXT; *total = DEVICE_BYTES; *available = DEVICE_BYTES - device_used; return OK; }
int cuMemHostAlloc(void **p, size_t n, unsigned flags) { (void)flags; NEED_CONTEXT; BEGIN; *p = add(n, NULL, 1)->at; END(OK); }
int cuMemFreeHost(void *p) { BEGIN; block **b = find(p, 1); if (b) drop(b); END(b ? OK : INVALID_VALUE); }
int cuMemAlloc(uint64_t *p, size_t n) {
    NEED_CONTEXT; BEGIN;
    if (n > DEVICE_BYTES - device_used) END(OUT_OF_MEMORY);
    device_used += n; *p = (uint64_t)add(n, NULL, 0)->at; END(OK);
}
int cuMemFree(uint64_t p) { BEGIN; block **b = find((char *)p, 1); if (b) drop(b); END(b ? OK : INVALID_VALUE); }
int cuMemPoolCreate(pool **p, const char *props) { NEED_CONTEXT; *p = calloc(1, sizeof **p); memcpy(&(*p)->bound, props + 24, 8);
    return (*p)->bound && fault("the driver's bound is refused") ? INVALID_VALUE : OK;
}
int cuMemPoolSetAccess(pool *p, void *map, size_t n) { (void)p; (void)map; (void)n; return OK; }
int cuMemPoolDestroy(pool *p) { return p->used ? INVALID_VALUE : OK; }
int cuMemPoolSetAttribute(pool *p, int a, void *v) { NEED; if (a != 4) return INVALID_VALUE; p->threshold = *(uint64_t *)v; return OK; }
int cuMemPoolGetAttribute(pool *p, int a, void *v) { NEED; *(uint64_t *)v = a == 4 ? p->threshold : a == 7 ? p->used : a == 8 ? p->high : 0; return OK; }
int cuMemAllocFromPoolAsync(uint64_t *at, size_t n, pool *p, stream *s) {
    NEED_CONTEXT;
    if (!s || s->closed) return INVALID_HANDLE;
    BEGIN;
    if (n > DEVICE_BYTES - device_used || (p->bound && p->used + n > p->bound)) END(OUT_OF_MEMORY);
    p->used += (n + 511) / 512 * 512; if (p->used > p->high) p->high = p->used;
    device_used += n; *at = (uint64_t)add(n, p, 0)->at; END(OK);
}
int cuMemFreeAsync(uint64_t at, stream *s) {
    op o = {.kind = FREE, .to = (char *)at};
    BEGIN;
    block **b = find((char *)at, 1);
    if (!b) END(INVALID_VALUE);
    if ((*b)->of) { (*b)->of->used -= ((*b)->n + 511) / 512 * 512; device_used -= (*b)->n; }
    pthread_mutex_unlock(&lock);
    return enqueue(s, o);
}
int cuMemcpyHtoDAsync(uint64_t to, const void *from, size_t n, stream *s) { op o = {.kind = COPY, .to = (char *)to, .from = from, .n = n}; return enqueue(s, o); }
int cuMemcpyDtoHAsync(void *to, uint64_t from, size_t n, stream *s) { op o = {.kind = COPY, .to = to, .from = (char *)from, .n = n}; return enqueue(s, o); }
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t n, stream *s) { op o = {.kind = FILL, .to = (char *)to, .value = value, .n = n}; return enqueue(s, o); }

/* Graphs */
int cuStreamIsCapturing(stream *s, int *status) { *status = s ? s->capturing : 0; return OK; }
int cuStreamBeginCapture(stream *s, int mode) { NEED_CONTEXT; if (s->capturing || mode != 1) return INVALID_VALUE; s->capturing = 1; s->recorded = (queue){0}; return OK; }
int cuStreamEndCapture(stream *s, queue **g) { NEED; if (!s->capturing) return INVALID_VALUE; s->capturing = 0; *g = malloc(sizeof **g); **g = s->recorded; return OK; }
int cuGraphInstantiateWithFlags(queue **x, queue *g, unsigned long long flags) { (void)flags; NEED; *x = malloc(sizeof **x); **x = *g; return OK; }
int cuGraphInstantiate(queue **x, queue *g, unsigned long long flags) { return cuGraphInstantiateWithFlags(x, g, flags); }
int cuGraphLaunch(queue *x, stream *s) { for (op *o = x->first; o; o = o->next) { int e = enqueue(s, *o); if (e) return e; } return OK; }
int cuGraphDestroy(queue *g) { free(g); return OK; }
int cuGraphExecDestroy(queue *x) { free(x); return OK; }

/* The loader of the bindings asks by name, and takes the newest of a function's versions. */
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    (void)version; (void)flags;
    *function = dlsym(dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD), name);
    if (status) *status = *function ? 0 : 1;
    if (!*function && getenv("FAKE_LIBCUDA_TRACE")) fprintf(stderr, "absent: %s\n", name);
    return *function ? OK : NOT_FOUND;
}
int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) { return cuGetProcAddress_v2(name, function, version, flags, NULL); }
