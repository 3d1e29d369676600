/* A libcuda.so.1 without a GPU, for the packages that talk to it: memory is malloc's, streams do their work at once, and
 * what is captured is kept and replayed. It refuses arguments that the real one refuses. FAKE_CUDA_FAILS names a function
 * that fails for lack of memory. There is one kernel, `add(float *data, int count, float amount)`. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int R;
typedef uint64_t Ptr;
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_CONTEXT = 201,
       INVALID_HANDLE = 400, NOT_FOUND = 500 };

#define TRY do { const char *f = getenv("FAKE_CUDA_FAILS"); if (f && !strcmp(f, __func__)) return OUT_OF_MEMORY; } while (0)
#define IN_CONTEXT do { TRY; if (!depth) return INVALID_CONTEXT; } while (0)

typedef struct { int kind; Ptr to, from; size_t n; float amount; } Op;
typedef struct { int n; Op ops[16]; } Graph;
typedef struct { int magic; Graph *capturing; } Stream;
typedef struct { int magic, recorded; unsigned flags; float ms; } Event;

static _Thread_local int depth;
static int retained, live;
static float now;
static int context_, module_, function_;

static void *make(size_t n) { live++; return calloc(1, n ? n : 1); }
static R drop(void *p) { if (!p) return INVALID_VALUE; live--; free(p); return OK; }

static void do_op(const Op *op) {
  now += 1;
  if (op->kind == 0) memcpy((void *)op->to, (void *)op->from, op->n);
  else for (size_t i = 0; i < op->n; i++) ((float *)op->to)[i] += op->amount;
}

static R ask(Stream *s, Op op) {
  if (!s || s->magic != 77) return INVALID_HANDLE;
  if (!s->capturing) do_op(&op);
  else if (s->capturing->n < 16) s->capturing->ops[s->capturing->n++] = op;
  return OK;
}

int fakeLive(void) { return live + retained + depth; }

R cuInit(unsigned flags) { TRY; return flags ? INVALID_VALUE : getenv("FAKE_CUDA_NO_DEVICE") ? NO_DEVICE : OK; }
R cuDriverGetVersion(int *v) { *v = 12060; return OK; }
R cuDeviceGetCount(int *n) { *n = 1; return OK; }
R cuDeviceGet(int *d, int i) { TRY; if (i) return INVALID_DEVICE; *d = 0; return OK; }
R cuDeviceGetName(char *name, int n, int d) { snprintf(name, n, "Fake Orin"); return OK; }
R cuDeviceTotalMem(size_t *n, int d) { *n = 8000; return OK; }
R cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : a == 76 ? 7 : a == 18; return OK; }
R cuDeviceComputeCapability(int *major, int *minor, int d) { *major = 8; *minor = 7; return OK; }
R cuMemGetInfo(size_t *free_, size_t *total) { IN_CONTEXT; *free_ = 5000; *total = 8000; return OK; }

R cuDevicePrimaryCtxRetain(void **c, int d) { TRY; retained++; *c = &context_; return OK; }
R cuDevicePrimaryCtxRelease(int d) { if (!retained) return INVALID_CONTEXT; retained--; return OK; }
R cuCtxPushCurrent(void *c) { TRY; if (c != &context_ || !retained) return INVALID_CONTEXT; depth++; return OK; }
R cuCtxPopCurrent(void **c) { if (!depth) return INVALID_CONTEXT; depth--; if (c) *c = &context_; return OK; }
R cuCtxGetCurrent(void **c) { *c = depth ? &context_ : 0; return OK; }
R cuCtxGetDevice(int *d) { IN_CONTEXT; *d = 0; return OK; }

R cuMemAlloc(Ptr *p, size_t n) { IN_CONTEXT; if (!n) return INVALID_VALUE; *p = (Ptr)make(n); return OK; }
R cuMemFree(Ptr p) { return drop((void *)p); }
R cuMemHostAlloc(void **p, size_t n, unsigned flags) {
  IN_CONTEXT; if (flags & ~2u) return INVALID_VALUE;
  char *q = make(n + 16); q[0] = flags ? 'm' : 'p'; *p = q + 16; return OK;
}
R cuMemFreeHost(void *p) { return drop((char *)p - 16); }
R cuMemHostGetDevicePointer(Ptr *d, void *p, unsigned flags) {
  IN_CONTEXT; if (flags || ((char *)p)[-16] != 'm') return INVALID_VALUE;
  *d = (Ptr)p; return OK;
}
R cuMemcpyHtoDAsync(Ptr to, const void *from, size_t n, Stream *s) {
  IN_CONTEXT; Op op = {0, to, (Ptr)from, n, 0}; return ask(s, op);
}
R cuMemcpyDtoHAsync(void *to, Ptr from, size_t n, Stream *s) {
  IN_CONTEXT; Op op = {0, (Ptr)to, from, n, 0}; return ask(s, op);
}
R cuMemcpyDtoDAsync(Ptr to, Ptr from, size_t n, Stream *s) {
  IN_CONTEXT; Op op = {0, to, from, n, 0}; return ask(s, op);
}

R cuStreamCreate(Stream **s, unsigned flags) {
  IN_CONTEXT; if (flags != 1) return INVALID_VALUE;
  *s = make(sizeof **s); (*s)->magic = 77; return OK;
}
R cuStreamDestroy(Stream *s) { return drop(s); }
R cuStreamSynchronize(Stream *s) { TRY; return s && s->magic == 77 && !s->capturing ? OK : INVALID_HANDLE; }
R cuStreamWaitEvent(Stream *s, Event *e, unsigned flags) {
  TRY; return flags ? INVALID_VALUE : s && s->magic == 77 && e && e->magic == 78 ? OK : INVALID_HANDLE;
}
R cuEventCreate(Event **e, unsigned flags) {
  IN_CONTEXT; if (flags != 0 && flags != 2) return INVALID_VALUE;
  *e = make(sizeof **e); (*e)->magic = 78; (*e)->flags = flags; return OK;
}
R cuEventDestroy(Event *e) { return drop(e); }
R cuEventRecord(Event *e, Stream *s) {
  TRY; if (!e || e->magic != 78 || !s || s->magic != 77) return INVALID_HANDLE;
  e->recorded = 1; e->ms = now; return OK;
}
R cuEventSynchronize(Event *e) { TRY; return e && e->magic == 78 ? OK : INVALID_HANDLE; }
R cuEventQuery(Event *e) { return e->recorded ? OK : 600; }
R cuEventElapsedTime(float *ms, Event *a, Event *b) {
  TRY; if (a->flags || b->flags || !a->recorded || !b->recorded) return INVALID_HANDLE;
  *ms = b->ms - a->ms; return OK;
}

static unsigned allowed_shared;
R cuModuleLoadData(void **m, const void *image) {
  IN_CONTEXT; if (strncmp(image, ".version", 8)) return 218;
  live++; *m = &module_; allowed_shared = 48 << 10; return OK;
}
R cuModuleLoadDataEx(void **m, const void *image, unsigned n, int *o, void **v) { return cuModuleLoadData(m, image); }
R cuModuleUnload(void *m) { if (m != &module_) return INVALID_HANDLE; live--; return OK; }
R cuModuleGetFunction(void **f, void *m, const char *name) {
  TRY; if (strcmp(name, "add")) return NOT_FOUND; *f = &function_; return OK;
}
R cuFuncSetAttribute(void *f, int attribute, int v) {
  TRY; if (f != &function_ || attribute != 8) return INVALID_VALUE;
  allowed_shared = v; return OK;
}
R cuFuncGetAttribute(int *v, int a, void *f) { *v = 0; return OK; }
R cuFuncSetBlockShape(void *f, int x, int y, int z) { TRY; return f == &function_ ? OK : INVALID_HANDLE; }
R cuFuncSetSharedMemConfig(void *f, int c) { return OK; }
static R launch(void **p, Stream *s) { Op op = {1, *(Ptr *)p[0], 0, *(int *)p[1], *(float *)p[2]}; return ask(s, op); }
R cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                 Stream *s, void **parameters, void **extra) {
  IN_CONTEXT; if (f != &function_ || gx != 2 || gy != 1 || gz != 1 || bx != 32 || by != 1 || bz != 1 || shared != 65536 ||
                  shared > allowed_shared)
    return INVALID_VALUE;
  if (parameters) return launch(parameters, s);
  /* CU_LAUNCH_PARAM_BUFFER_POINTER: one block of memory, each argument where C would put it */
  if (!extra || extra[0] != (void *)1) return INVALID_VALUE;
  char *buffer = extra[1]; void *p[] = {buffer, buffer + 8, buffer + 12};
  return launch(p, s);
}

R cuStreamBeginCapture(Stream *s, int mode) {
  TRY; if (mode != 1 || s->capturing) return INVALID_VALUE;
  s->capturing = make(sizeof(Graph)); return OK;
}
R cuStreamEndCapture(Stream *s, Graph **g) {
  if (!s->capturing) return INVALID_VALUE;
  *g = s->capturing; s->capturing = 0; return OK;
}
R cuGraphDestroy(Graph *g) { return drop(g); }
R cuGraphInstantiateWithFlags(Graph **e, Graph *g, unsigned long long flags) {
  TRY; if (flags) return INVALID_VALUE; *e = make(sizeof **e); **e = *g; return OK;
}
R cuGraphExecDestroy(Graph *e) { return drop(e); }
R cuGraphLaunch(Graph *e, Stream *s) {
  TRY; for (int i = 0; i < e->n; i++) { R r = ask(s, e->ops[i]); if (r) return r; } return OK;
}

R cuGetErrorName(R r, const char **text) {
  *text = r == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_OTHER"; return OK;
}
R cuGetErrorString(R r, const char **text) { *text = r == OUT_OF_MEMORY ? "out of memory" : "another error"; return OK; }

/* What the functions are called in a program that links to the library. */
#define ALSO(name, version) __typeof__(name) name##version __attribute__((alias(#name)))
ALSO(cuDeviceTotalMem, _v2); ALSO(cuMemGetInfo, _v2); ALSO(cuDevicePrimaryCtxRelease, _v2); ALSO(cuCtxPushCurrent, _v2);
ALSO(cuCtxPopCurrent, _v2); ALSO(cuMemAlloc, _v2); ALSO(cuMemFree, _v2); ALSO(cuMemHostGetDevicePointer, _v2);
ALSO(cuMemcpyHtoDAsync, _v2); ALSO(cuMemcpyDtoHAsync, _v2); ALSO(cuMemcpyDtoDAsync, _v2); ALSO(cuStreamDestroy, _v2); ALSO(cuEventDestroy, _v2);
ALSO(cuEventElapsedTime, _v2); ALSO(cuStreamBeginCapture, _v2);

R cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *status) {
  Dl_info self;
  dladdr((void *)cuInit, &self);
  *function = dlsym(dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD), symbol);
  if (status) *status = *function ? 0 : 1;
  return *function ? OK : NOT_FOUND;
}
