// The part of LiteRT's C structures that a delegate touches.
//
// They are declared here, so that a compiler is all that it takes to build the delegate.
// The layout is that of tflite/core/c/common.h, to whose structures fields are appended and
// never moved. Builds whose structures are opaque, as in Google Play services, are not
// meant.

#ifndef SPDF_ABI_H_
#define SPDF_ABI_H_

#include <stddef.h>
#include <stdint.h>

extern "C" {

enum TfLiteStatus : int32_t { kTfLiteOk = 0, kTfLiteError = 1 };

typedef int32_t TfLiteType;
constexpr TfLiteType kTfLiteFloat32 = 1, kTfLiteInt32 = 2, kTfLiteInt8 = 9,
                     kTfLiteFloat16 = 10;

// How a tensor's memory is held; a constant lies in the model.
typedef int32_t TfLiteAllocationType;
constexpr TfLiteAllocationType kTfLiteMmapRo = 1;

constexpr int32_t kTfLiteBuiltinDequantize = 6;
constexpr int32_t kTfLiteBuiltinFullyConnected = 9;
constexpr int32_t kTfLiteBuiltinDensify = 124;

constexpr int64_t kTfLiteDelegateFlagsAllowDynamicTensors = 1;

// Arrays are allocated with malloc and freed with free.
struct TfLiteIntArray {
  int size;
  int data[];
};
struct TfLiteFloatArray {
  int size;
  float data[];
};

struct TfLiteQuantizationParams {
  float scale;
  int32_t zero_point;
};

constexpr int32_t kTfLiteAffineQuantization = 1;
struct TfLiteQuantization {
  int32_t type;
  void* params;
};
struct TfLiteAffineQuantization {
  TfLiteFloatArray* scale;
  TfLiteIntArray* zero_point;
  int32_t quantized_dimension;
};

constexpr int32_t kTfLiteDimDense = 0, kTfLiteDimSparseCSR = 1;
struct TfLiteDimensionMetadata {
  int32_t format;
  int dense_size;
  TfLiteIntArray* array_segments;
  TfLiteIntArray* array_indices;
};
struct TfLiteSparsity {
  TfLiteIntArray* traversal_order;
  TfLiteIntArray* block_map;
  TfLiteDimensionMetadata* dim_metadata;
  int dim_metadata_size;
};

struct TfLiteDelegate;
struct TfLiteContext;

struct TfLiteTensor {
  TfLiteType type;
  void* data;
  TfLiteIntArray* dims;
  TfLiteQuantizationParams params;
  TfLiteAllocationType allocation_type;
  size_t bytes;
  const void* allocation;
  const char* name;
  TfLiteDelegate* delegate;
  int buffer_handle;
  bool data_is_stale;
  bool is_variable;
  TfLiteQuantization quantization;
  TfLiteSparsity* sparsity;
  const TfLiteIntArray* dims_signature;
};

struct TfLiteNode {
  TfLiteIntArray* inputs;
  TfLiteIntArray* outputs;
  TfLiteIntArray* intermediates;
  TfLiteIntArray* temporaries;
  void* user_data;
  void* builtin_data;
  const void* custom_initial_data;
  int custom_initial_data_size;
  TfLiteDelegate* delegate;
  bool might_have_side_effect;
};

struct TfLiteRegistration {
  void* (*init)(TfLiteContext*, const char* buffer, size_t length);
  void (*free)(TfLiteContext*, void* buffer);
  TfLiteStatus (*prepare)(TfLiteContext*, TfLiteNode*);
  TfLiteStatus (*invoke)(TfLiteContext*, TfLiteNode*);
  const char* (*profiling_string)(const TfLiteContext*, const TfLiteNode*);
  int32_t builtin_code;
  const char* custom_name;
  int version;
  void* registration_external;
  void* async_kernel;
  uint64_t inplace_operator;
};

struct TfLiteDelegateParams {
  TfLiteDelegate* delegate;
  TfLiteIntArray* nodes_to_replace;
  TfLiteIntArray* input_tensors;
  TfLiteIntArray* output_tensors;
};

struct TfLiteContext {
  size_t tensors_size;
  TfLiteStatus (*GetExecutionPlan)(TfLiteContext*, TfLiteIntArray** execution_plan);
  TfLiteTensor* tensors;
  void* impl_;
  TfLiteStatus (*ResizeTensor)(TfLiteContext*, TfLiteTensor*, TfLiteIntArray* new_size);
  void (*ReportError)(TfLiteContext*, const char* message, ...);
  TfLiteStatus (*AddTensors)(TfLiteContext*, int tensors_to_add, int* first_new);
  TfLiteStatus (*GetNodeAndRegistration)(TfLiteContext*, int node_index, TfLiteNode**,
                                         TfLiteRegistration**);
  TfLiteStatus (*ReplaceNodeSubsetsWithDelegateKernels)(TfLiteContext*,
                                                        TfLiteRegistration,
                                                        const TfLiteIntArray* nodes,
                                                        TfLiteDelegate*);
  int recommended_num_threads;
  // More follows, which nothing here reads.
};

struct TfLiteDelegate {
  void* data_;
  TfLiteStatus (*Prepare)(TfLiteContext*, TfLiteDelegate*);
  TfLiteStatus (*CopyFromBufferHandle)(TfLiteContext*, TfLiteDelegate*, int,
                                       TfLiteTensor*);
  TfLiteStatus (*CopyToBufferHandle)(TfLiteContext*, TfLiteDelegate*, int,
                                     TfLiteTensor*);
  void (*FreeBufferHandle)(TfLiteContext*, TfLiteDelegate*, int*);
  int64_t flags;
  void* opaque_delegate_builder;
};

typedef int32_t TfLiteFusedActivation;
constexpr TfLiteFusedActivation kTfLiteActNone = 0, kTfLiteActRelu = 1,
                                kTfLiteActReluN1To1 = 2, kTfLiteActRelu6 = 3;
struct TfLiteFullyConnectedParams {
  TfLiteFusedActivation activation;
  int32_t weights_format;  // 0 is the default
  bool keep_num_dims;
  bool asymmetric_quantize_inputs;
  int32_t quantized_bias_type;
};

}  // extern "C"

#endif  // SPDF_ABI_H_
