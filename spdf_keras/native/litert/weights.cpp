// Finds the weights of a file, and packs them.

#include "weights.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace spdf {
namespace {

// Fractions of zeros from which skipping paid in the runtime, for prefill and decode
// together; `docs/results/artefacts.md` has the measurement.
constexpr double kPaysFloat = 0.2;
constexpr double kPaysInt8 = 0.3;

// Entries of the smallest dense weight that is taken.
constexpr int64_t kLargeWeight = 1 << 20;

// Whether [start, end) lies in a read-only mapping of a file. Only there may pages be given
// back; elsewhere they would come back as zeros.
bool is_mapped_file(uintptr_t start, uintptr_t end) {
  std::FILE* maps = std::fopen("/proc/self/maps", "r");
  if (!maps) return false;
  char line[512];
  bool found = false;
  while (!found && std::fgets(line, sizeof line, maps)) {
    unsigned long low, high, inode;
    char mode[5];
    if (std::sscanf(line, "%lx-%lx %4s %*x %*s %lu", &low, &high, mode, &inode) == 4)
      found = inode && mode[1] == '-' && low <= start && end <= high;
  }
  std::fclose(maps);
  return found;
}

void give_back(const void* data, size_t bytes) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto start = reinterpret_cast<uintptr_t>(data);
  const uintptr_t low = (start + page - 1) / page * page, high = (start + bytes) / page * page;
  if (low < high && is_mapped_file(low, high))
    madvise(reinterpret_cast<void*>(low), high - low, MADV_DONTNEED);
}

bool is_csr(const TfLiteSparsity& s, int64_t rows) {
  return s.traversal_order && s.traversal_order->size == 2 &&
         s.traversal_order->data[0] == 0 && s.traversal_order->data[1] == 1 &&
         (!s.block_map || s.block_map->size == 0) && s.dim_metadata_size == 2 &&
         s.dim_metadata[0].format == kTfLiteDimDense &&
         s.dim_metadata[1].format == kTfLiteDimSparseCSR &&
         s.dim_metadata[1].array_segments && s.dim_metadata[1].array_indices &&
         s.dim_metadata[1].array_segments->size == rows + 1;
}

const TfLiteAffineQuantization* affine(const TfLiteTensor& t) {
  return t.quantization.type == kTfLiteAffineQuantization
             ? static_cast<const TfLiteAffineQuantization*>(t.quantization.params)
             : nullptr;
}

// Whether an int8 tensor has scales for its rows, and no zero points.
bool is_symmetric(const TfLiteTensor& t) {
  const TfLiteAffineQuantization* q = affine(t);
  if (!q || !q->scale || !t.dims || t.dims->size != 2) return false;
  if (q->scale->size != 1 &&
      (q->quantized_dimension != 0 || q->scale->size != t.dims->data[0]))
    return false;
  for (int i = 0; q->zero_point && i < q->zero_point->size; ++i)
    if (q->zero_point->data[i]) return false;
  return true;
}

int64_t value_bytes(TfLiteType type) {
  return type == kTfLiteFloat32 ? 4 : type == kTfLiteFloat16 ? 2 : 1;
}

// Whether a constant is a matrix of a known type and as long as it says.
bool is_matrix(const TfLiteTensor& t) {
  if (!t.data || !t.dims || t.dims->size != 2) return false;
  if (t.type != kTfLiteFloat32 && t.type != kTfLiteFloat16 && t.type != kTfLiteInt8)
    return false;
  const int64_t rows = t.dims->data[0], columns = t.dims->data[1];
  if (rows < 1 || columns < 1 || rows > INT32_MAX / columns) return false;
  const auto values = static_cast<int64_t>(t.bytes) / value_bytes(t.type);
  return t.sparsity ? is_csr(*t.sparsity, rows) : values == rows * columns;
}

spdf_type type_of(const Options& options, TfLiteType stored) {
  if (options.format == "float32") return SPDF_FLOAT32;
  if (options.format == "float16") return SPDF_FLOAT16;
  if (options.format == "int8") return SPDF_INT8;
  return stored == kTfLiteFloat32   ? SPDF_FLOAT32
         : stored == kTfLiteFloat16 ? SPDF_FLOAT16
                                    : SPDF_INT8;
}

// Packs a weight, or returns NULL if that does not pay or it contradicts itself.
PackedWeight pack(const Stored& stored, bool one_token, const Options& options,
                  Pool* pool) {
  const spdf_source source = stored.source();
  const spdf_type type = type_of(options, stored.constant->type);
  const int64_t size = source.rows * source.columns, kept = spdf_kept(&source);
  if (kept < 0) return nullptr;
  const double zeros = 1 - static_cast<double>(kept) / static_cast<double>(size);
  const bool integers = type == SPDF_INT8 && options.round_inputs && spdf_rounds_inputs();
  // The runtime multiplies int8 weights as integers, unless DEQUANTIZE comes between. Where
  // this library cannot, it would be slower.
  const bool runtime_has_integers =
      stored.constant->type == kTfLiteInt8 && stored.unpackers.empty();
  double least = integers ? kPaysInt8 : kPaysFloat;
  if (runtime_has_integers && !integers) least = 1;
  if (options.min_sparsity >= 0) least = options.min_sparsity;
  const bool dense = options.dense && one_token && size >= kLargeWeight &&
                     source.code == SPDF_DENSE && (type != SPDF_INT8 || integers);
  if (zeros < least && !dense) return nullptr;
  const char* reason = nullptr;
  spdf_packed* packed = spdf_pack(&source, type, !options.round_inputs, Pool::parallel,
                                  pool, &reason);
  if (!packed) {
    std::fprintf(stderr, "spdf: a weight is left to the runtime: %s\n", reason);
    return nullptr;
  }
  return PackedWeight(packed, [](const spdf_packed* p) {
    spdf_packed_free(const_cast<spdf_packed*>(p));
  });
}

}  // namespace

spdf_source Stored::source() const {
  const TfLiteTensor& t = *constant;
  spdf_source s{};
  s.rows = rows(), s.columns = columns();
  s.type = t.type == kTfLiteFloat32   ? SPDF_FLOAT32
           : t.type == kTfLiteFloat16 ? SPDF_FLOAT16
                                      : SPDF_INT8;
  s.values = t.data;
  s.value_count = static_cast<int64_t>(t.bytes) / value_bytes(t.type);
  if (t.sparsity) {
    const TfLiteDimensionMetadata& columns_of_values = t.sparsity->dim_metadata[1];
    s.code = SPDF_CSR;
    s.segments = columns_of_values.array_segments->data;
    s.value_columns = columns_of_values.array_indices->data;
    // A file whose index is shorter than its values contradicts itself.
    if (columns_of_values.array_indices->size != s.value_count) s.value_count = -1;
  }
  if (integers) {
    s.scales = affine(*integers)->scale->data;
    s.scale_count = affine(*integers)->scale->size;
  }
  return s;
}

bool find_stored(TfLiteContext* context, const std::map<int, int>& producers, int tensor,
                 Stored* stored) {
  constexpr int kLongestChain = 3;  // constant, DENSIFY, DEQUANTIZE
  for (int depth = 0; depth < kLongestChain; ++depth) {
    if (tensor < 0 || static_cast<size_t>(tensor) >= context->tensors_size) return false;
    const TfLiteTensor& t = context->tensors[tensor];
    // The tensor that DEQUANTIZE reads has the scales; the one before DENSIFY may not.
    if (t.type == kTfLiteInt8 && !stored->integers) {
      if (!is_symmetric(t)) return false;
      stored->integers = &t;
    }
    if (t.allocation_type == kTfLiteMmapRo && t.data) {
      stored->constant = &t;
      stored->tensor = tensor;
      return is_matrix(t);
    }
    const auto producer = producers.find(tensor);
    if (producer == producers.end()) return false;
    TfLiteNode* node;
    TfLiteRegistration* registration;
    if (context->GetNodeAndRegistration(context, producer->second, &node, &registration) ||
        node->inputs->size < 1)
      return false;
    stored->unpackers.push_back(producer->second);
    tensor = node->inputs->data[0];
  }
  return false;
}

Weights::Key Weights::key_of(const Stored& stored) {
  uint64_t fingerprint = 0;
  const TfLiteAffineQuantization* q = stored.integers ? affine(*stored.integers) : nullptr;
  for (int i = 0; q && i < q->scale->size; ++i) {
    uint32_t bits;
    std::memcpy(&bits, &q->scale->data[i], sizeof bits);
    fingerprint = (fingerprint ^ bits) * 0x9E3779B97F4A7C15ull;
  }
  return {stored.constant->data, stored.rows(), stored.columns(), fingerprint};
}

PackedWeight Weights::get(const Stored& stored, bool one_token, const Options& options,
                          Pool* pool) {
  std::lock_guard<std::mutex> lock(mutex_);
  const TfLiteSparsity* sparsity = stored.constant->sparsity;
  Entry& entry = entries_[key_of(stored)];
  // Another model may lie where one lay that is gone; then there are indices again.
  if (sparsity && sparsity->dim_metadata[1].array_indices->size) entry.only_copy = nullptr;
  PackedWeight packed = entry.only_copy ? entry.only_copy : entry.packed.lock();
  if (!packed) {
    packed = pack(stored, one_token, options, pool);
    if (!packed) return nullptr;
    entry.packed = packed;
    ++count_;
    bytes_ += spdf_packed_bytes(packed.get());
    if (options.release_pages) give_back(stored.constant->data, stored.constant->bytes);
  }
  return packed;
}

void Weights::release_index(const Key& key, TfLiteSparsity* sparsity) {
  std::lock_guard<std::mutex> lock(mutex_);
  Entry& entry = entries_[key];
  TfLiteDimensionMetadata& columns = sparsity->dim_metadata[1];
  entry.only_copy = entry.packed.lock();
  if (!entry.only_copy || !columns.array_indices->size) return;
  std::free(columns.array_indices);
  // An array, as the Python interface reads it.
  columns.array_indices =
      static_cast<TfLiteIntArray*>(std::calloc(1, sizeof(TfLiteIntArray)));
}

}  // namespace spdf
