/* Runs one signature of a .tflite file by LiteRT's CompiledModel, with zeros skipped.
 *
 * This is what an Android app with libLiteRt.so does; the page docs/guides/phone.md says
 * how to build the delegate for a phone. On a computer, with the library of the Python
 * package ai-edge-litert (LITERT is its folder):
 *
 *   cc compiled_model.c -o compiled_model $LITERT/libLiteRt.so -Wl,-rpath,$LITERT -ldl -lm
 *   ./compiled_model MODEL.tflite decode libspdf_delegate.so
 *
 * It prints the sum of the absolute logits for inputs of zeros, and the best time of eight
 * calls; without the third argument the runtime multiplies the zeros. Functions are
 * declared here, so that no header is needed; an app includes litert/c/litert_*.h.
 */
#include <dlfcn.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
  int32_t tag, unused, type, unused_too;
  int64_t value;
} EnvironmentOption;
typedef struct {
  int32_t major, minor, patch;
} Version;
typedef struct {
  uint8_t bytes[72];
} TensorType;
typedef struct {
  uint16_t size, major, minor, reserved;
  void *get_name, *get_version, *get_hardware, *is_responsible, *create_delegate;
} AcceleratorDefinition;

extern const AcceleratorDefinition* LiteRtStaticLinkedAcceleratorCpuDef;
int LiteRtCreateEnvironment(int, const EnvironmentOption*, void**);
int LiteRtCreateAccelerator(void**);
int LiteRtSetAcceleratorGetName(void*, void*);
int LiteRtSetAcceleratorGetVersion(void*, void*);
int LiteRtSetAcceleratorGetHardwareSupport(void*, void*);
int LiteRtSetDelegateFunction(void*, void*);
int LiteRtSetIsAcceleratorDelegateResponsibleForJitCompilation(void*, void*);
int LiteRtRegisterAccelerator(void* environment, void* accelerator, void*, void (*)(void*));
int LiteRtWrapDelegate(void* delegate, void (*destroy)(void*), void** wrapper);
int LiteRtCreateModelFromFile(void* environment, const char*, void**);
int LiteRtCreateOptions(void**);
int LiteRtSetOptionsHardwareAccelerators(void*, int);
int LiteRtCreateCompiledModel(void* environment, void* model, void* options, void**);
int LiteRtGetNumModelSignatures(void*, size_t*);
int LiteRtGetModelSignature(void*, size_t, void**);
int LiteRtGetSignatureKey(void*, const char**);
int LiteRtGetNumSignatureInputs(void*, size_t*);
int LiteRtGetNumSignatureOutputs(void*, size_t*);
int LiteRtGetSignatureInputName(void*, size_t, const char**);
int LiteRtGetSignatureOutputName(void*, size_t, const char**);
int LiteRtGetSignatureInputTensorByIndex(void*, size_t, void**);
int LiteRtGetSignatureOutputTensorByIndex(void*, size_t, void**);
int LiteRtGetRankedTensorType(void*, TensorType*);
int LiteRtGetCompiledModelInputBufferRequirements(void*, size_t, size_t, void**);
int LiteRtGetCompiledModelOutputBufferRequirements(void*, size_t, size_t, void**);
int LiteRtCreateManagedTensorBufferFromRequirements(void*, const TensorType*, void*, void**);
int LiteRtGetTensorBufferPackedSize(void*, size_t*);
int LiteRtLockTensorBuffer(void*, void**, int mode);
int LiteRtUnlockTensorBuffer(void*);
int LiteRtRunCompiledModel(void*, size_t signature, size_t, void**, size_t, void**);

enum { kMostTensors = 512, kRead = 0, kWrite = 1, kCpu = 1 };

/* Ends the program with the name of a call that has failed. */
#define CHECK(call)                                                \
  do {                                                             \
    const int status = (call);                                     \
    if (status) {                                                  \
      fprintf(stderr, "%s has failed: status %d\n", #call, status); \
      exit(1);                                                     \
    }                                                              \
  } while (0)

static void* (*create_delegate)(const char* const*, const char* const*, size_t,
                                void (*)(const char*));
static void (*destroy_delegate)(void*);

static int get_name(const void* self, const char** name) {
  (void)self;
  *name = "spdf";
  return 0;
}
static int get_version(const void* self, Version* version) {
  (void)self;
  version->major = 1, version->minor = version->patch = 0;
  return 0;
}
static int get_hardware(const void* self, int* hardware) {
  (void)self;
  *hardware = kCpu;
  return 0;
}
static int is_responsible(const void* self, bool* yes) {
  (void)self;
  *yes = true;
  return 0;
}
static void report(const char* message) { fprintf(stderr, "%s\n", message); }
static int make_delegate(void* runtime, void* environment, const void* self, void* options,
                         void** wrapper) {
  (void)runtime, (void)environment, (void)self, (void)options;
  void* delegate = create_delegate(NULL, NULL, 0, report);
  return delegate ? LiteRtWrapDelegate(delegate, destroy_delegate, wrapper) : 1;
}

static void add_accelerator(void* environment, void* name, void* version, void* hardware,
                            void* responsible, void* make) {
  void* accelerator;
  CHECK(LiteRtCreateAccelerator(&accelerator));
  CHECK(LiteRtSetAcceleratorGetName(accelerator, name));
  CHECK(LiteRtSetAcceleratorGetVersion(accelerator, version));
  CHECK(LiteRtSetAcceleratorGetHardwareSupport(accelerator, hardware));
  CHECK(LiteRtSetDelegateFunction(accelerator, make));
  CHECK(LiteRtSetIsAcceleratorDelegateResponsibleForJitCompilation(accelerator, responsible));
  CHECK(LiteRtRegisterAccelerator(environment, accelerator, NULL, NULL));
}

/* Makes an environment whose accelerators are ours, then the CPU's. They are asked in the
 * order in which they were registered, and the CPU's takes all that it can. */
static void* make_environment(const char* library_path) {
  const EnvironmentOption none = {24 /* AutoRegisterAccelerators */, 0, 2 /* int */, 0, 0};
  void* environment;
  CHECK(LiteRtCreateEnvironment(1, &none, &environment));
  if (library_path) {
    void* library = dlopen(library_path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      fprintf(stderr, "%s\n", dlerror());
      exit(1);
    }
    *(void**)&create_delegate = dlsym(library, "tflite_plugin_create_delegate");
    *(void**)&destroy_delegate = dlsym(library, "tflite_plugin_destroy_delegate");
    add_accelerator(environment, get_name, get_version, get_hardware, is_responsible,
                    make_delegate);
  }
  const AcceleratorDefinition* cpu = LiteRtStaticLinkedAcceleratorCpuDef;
  add_accelerator(environment, cpu->get_name, cpu->get_version, cpu->get_hardware,
                  cpu->is_responsible, cpu->create_delegate);
  return environment;
}

static size_t find_signature(void* model, const char* wanted, void** signature) {
  size_t count;
  const char* key;
  CHECK(LiteRtGetNumModelSignatures(model, &count));
  for (size_t index = 0; index < count; ++index) {
    CHECK(LiteRtGetModelSignature(model, index, signature));
    CHECK(LiteRtGetSignatureKey(*signature, &key));
    if (!strcmp(key, wanted)) return index;
  }
  fprintf(stderr, "The file has no signature %s.\n", wanted);
  exit(1);
}

/* Fills an input with zeros, which are valid tokens and positions; a prompt has one token. */
static void fill(void* buffer, const char* name) {
  size_t size;
  void* data;
  CHECK(LiteRtGetTensorBufferPackedSize(buffer, &size));
  CHECK(LiteRtLockTensorBuffer(buffer, &data, kWrite));
  memset(data, 0, size);
  if (!strcmp(name, "lengths")) *(int32_t*)data = 1;
  CHECK(LiteRtUnlockTensorBuffer(buffer));
}

static double sum_of(void* buffer) {
  size_t size;
  void* data;
  double sum = 0;
  CHECK(LiteRtGetTensorBufferPackedSize(buffer, &size));
  CHECK(LiteRtLockTensorBuffer(buffer, &data, kRead));
  for (size_t i = 0; i < size / sizeof(float); ++i) sum += fabs(((float*)data)[i]);
  CHECK(LiteRtUnlockTensorBuffer(buffer));
  return sum;
}

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char** argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: %s MODEL.tflite SIGNATURE [libspdf_delegate.so]\n", argv[0]);
    return 2;
  }
  void *model, *options, *compiled, *signature, *tensor, *needs;
  void* environment = make_environment(argc > 3 ? argv[3] : NULL);
  CHECK(LiteRtCreateModelFromFile(environment, argv[1], &model));
  CHECK(LiteRtCreateOptions(&options));
  CHECK(LiteRtSetOptionsHardwareAccelerators(options, kCpu));
  CHECK(LiteRtCreateCompiledModel(environment, model, options, &compiled));
  const size_t index = find_signature(model, argv[2], &signature);

  static void *inputs[kMostTensors], *outputs[kMostTensors];
  size_t input_count, output_count, logits = 0;
  const char* name;
  TensorType type;
  CHECK(LiteRtGetNumSignatureInputs(signature, &input_count));
  CHECK(LiteRtGetNumSignatureOutputs(signature, &output_count));
  if (input_count > kMostTensors || output_count > kMostTensors) return 1;
  for (size_t i = 0; i < input_count; ++i) {
    CHECK(LiteRtGetSignatureInputTensorByIndex(signature, i, &tensor));
    CHECK(LiteRtGetRankedTensorType(tensor, &type));
    CHECK(LiteRtGetCompiledModelInputBufferRequirements(compiled, index, i, &needs));
    CHECK(LiteRtCreateManagedTensorBufferFromRequirements(environment, &type, needs,
                                                          &inputs[i]));
    CHECK(LiteRtGetSignatureInputName(signature, i, &name));
    fill(inputs[i], name);
  }
  for (size_t i = 0; i < output_count; ++i) {
    CHECK(LiteRtGetSignatureOutputTensorByIndex(signature, i, &tensor));
    CHECK(LiteRtGetRankedTensorType(tensor, &type));
    CHECK(LiteRtGetCompiledModelOutputBufferRequirements(compiled, index, i, &needs));
    CHECK(LiteRtCreateManagedTensorBufferFromRequirements(environment, &type, needs,
                                                          &outputs[i]));
    CHECK(LiteRtGetSignatureOutputName(signature, i, &name));
    if (!strcmp(name, "logits")) logits = i;
  }
  double best = 1e9;
  for (int call = 0; call < 8; ++call) {
    const double start = seconds();
    CHECK(LiteRtRunCompiledModel(compiled, index, input_count, inputs, output_count, outputs));
    const double took = seconds() - start;
    if (took < best) best = took;
  }
  printf("sum of the absolute logits %.6g, best of 8 calls %.2f ms\n", sum_of(outputs[logits]),
         1e3 * best);
  return 0;
}
