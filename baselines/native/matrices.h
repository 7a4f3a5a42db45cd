// Matrices in memory that is laid out once, the passes over them, and the operands of bf16 products.

#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/addmm_cpu_dispatch.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm_cpu_dispatch.h>

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

using Bf = at::BFloat16;

template <class Real>
struct Matrix {  // row-major [rows, columns]; `plain` and `transposed` are ATen's views of it
  int64_t rows = 0, columns = 0;
  Real* data = nullptr;
  at::Tensor plain, transposed;

  int64_t size() const { return rows * columns; }
  Matrix shaped(int64_t new_rows, int64_t new_columns) const { return {new_rows, new_columns, data, {}, {}}; }
};

template <class Real>
Matrix<Real> matrix_of(Real* data, int64_t rows, int64_t columns) {
  auto plain = at::from_blob(data, {rows, columns}, c10::CppTypeToScalarType<Real>::value);
  return {rows, columns, data, plain, plain.t()};
}

class Memory {  // released as a whole; every piece starts at a cache line
 public:
  template <class T>
  T* take(int64_t count) {
    const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
    if (bytes > left_) add_block(bytes);
    left_ -= bytes;
    auto* piece = reinterpret_cast<T*>(next_);
    next_ += bytes;
    return piece;
  }

  template <class Real>
  Matrix<Real> matrix(int64_t rows, int64_t columns) {
    return matrix_of(take<Real>(rows * columns), rows, columns);
  }

 private:
  struct Free {
    void operator()(char* block) const { std::free(block); }
  };

  void add_block(size_t bytes) {
    constexpr size_t page = size_t(2) << 20;  // huge pages: the values of a step span hundreds of small ones
    const size_t size = (std::max(bytes, 8 * page) + page - 1) / page * page;
    auto* block = static_cast<char*>(std::aligned_alloc(page, size));
    if (!block) throw std::bad_alloc();
    madvise(block, size, MADV_HUGEPAGE);
    blocks_.emplace_back(block);
    next_ = block, left_ = size;
  }

  std::vector<std::unique_ptr<char, Free>> blocks_;
  char* next_ = nullptr;
  size_t left_ = 0;
};

template <class Real>
void multiply(Matrix<Real>& out, const at::Tensor& a, const at::Tensor& b) {  // out = a b
  at::cpu::mm_out(out.plain, a, b);
}

template <class Real>
void add_product(Matrix<Real>& out, const at::Tensor& a, const at::Tensor& b, double factor) {
  at::cpu::addmm_out(out.plain, out.plain, a, b, 1, factor);  // out += factor a b
}

template <class Real>
void add(Real* out, const Real* a, const Real* b, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = a[i] + b[i];
}

template <class Real>
void axpy(Real* out, const Real* values, Real factor, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] += factor * values[i];
}

template <class Real>
void add_to_rows(Matrix<Real>& values, const Real* bias) {
  for (int64_t row = 0; row < values.rows; ++row)
    for (int64_t i = 0; i < values.columns; ++i) values.data[row * values.columns + i] += bias[i];
}

template <class Real>
void add_to_rows_and_rectify(Matrix<Real>& values, const Real* bias) {
  for (int64_t row = 0; row < values.rows; ++row) {
    Real* value = values.data + row * values.columns;
    for (int64_t i = 0; i < values.columns; ++i) {
      const Real sum = value[i] + bias[i];
      value[i] = sum < 0 ? Real(0) : sum;  // a NaN stays one
    }
  }
}

template <class Real>
void mask(Real* values, const Real* rectified, int64_t count) {
  for (int64_t i = 0; i < count; ++i) values[i] = rectified[i] <= 0 ? Real(0) : values[i];
}

template <class Real>
void add_column_sums(Real* out, const Matrix<Real>& values, Real factor) {
  constexpr int64_t width = 64;  // columns at a time, whose sums stay in registers and cache
  for (int64_t first = 0; first < values.columns; first += width) {
    const int64_t count = std::min(width, values.columns - first);
    Real sums[width] = {};
    for (int64_t row = 0; row < values.rows; ++row) {
      const Real* value = values.data + row * values.columns + first;
      for (int64_t i = 0; i < count; ++i) sums[i] += value[i];
    }
    for (int64_t i = 0; i < count; ++i) out[first + i] += factor * sums[i];
  }
}

// Round to nearest, ties to even, as the processor's own conversion; a NaN stays one.
inline uint16_t rounded(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t up = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return uint16_t((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : up);
}

// A bf16 matrix. Rows and columns are padded by zeros to even numbers, since brgemm takes pairs.
struct Narrow {
  int64_t rows = 0, columns = 0, stride = 0;
  Bf* data = nullptr;

  Narrow() = default;
  Narrow(Memory& memory, int64_t rows_, int64_t columns_)
      : rows(rows_), columns(columns_), stride(columns_ + columns_ % 2) {
    data = memory.take<Bf>((rows + rows % 2) * stride);
  }

  void reshape(int64_t new_rows, int64_t new_columns) {
    rows = new_rows, columns = new_columns, stride = columns + columns % 2;
  }

  void set(const Matrix<float>& from) {
    auto* to = reinterpret_cast<uint16_t*>(data);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < columns; ++i) to[row * stride + i] = rounded(from.data[row * columns + i]);
      if (stride > columns) to[row * stride + columns] = 0;
    }
    if (rows % 2) std::fill_n(to + rows * stride, stride, uint16_t(0));
  }
};

inline void mask(float* values, const Bf* rectified, int64_t rows, int64_t columns, int64_t stride) {
  const auto* bits = reinterpret_cast<const uint16_t*>(rectified);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < columns; ++i) {
      float& value = values[row * columns + i];
      value = bits[row * stride + i] == 0 ? 0.f : value;
    }
}

struct Packed {  // the right operand [k, n] of a bf16 product: two rows side by side, [k / 2, n, 2]
  int64_t k, n;
  const Bf* data;
};

inline Packed pack_rows(const Narrow& from, Bf* to) {  // k = rows
  const auto* bits = reinterpret_cast<const uint16_t*>(from.data);
  auto* words = reinterpret_cast<uint32_t*>(to);
  const int64_t k = from.rows + from.rows % 2;
  for (int64_t pair = 0; pair < k / 2; ++pair) {
    const uint16_t *low = bits + 2 * pair * from.stride, *high = low + from.stride;
    uint32_t* word = words + pair * from.columns;
    for (int64_t i = 0; i < from.columns; ++i) word[i] = low[i] | uint32_t(high[i]) << 16;
  }
  return {k, from.columns, to};
}

inline void transpose_words(const uint32_t* from, uint32_t* to, int64_t rows, int64_t columns) {
  constexpr int64_t block = 8;
  for (int64_t r = 0; r < rows; r += block)
    for (int64_t c = 0; c < columns; c += block) {
#ifdef __AVX2__
      if (r + block <= rows && c + block <= columns) {
        __m256 in[8], pair[8], four[8];
        for (int i = 0; i < 8; ++i)
          in[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(from + (r + i) * columns + c));
        for (int i = 0; i < 8; i += 2) {
          pair[i] = _mm256_unpacklo_ps(in[i], in[i + 1]);
          pair[i + 1] = _mm256_unpackhi_ps(in[i], in[i + 1]);
        }
        for (int i = 0; i < 8; i += 4)
          for (int j = 0; j < 2; ++j) {
            four[i + 2 * j] = _mm256_shuffle_ps(pair[i + j], pair[i + j + 2], 0x44);
            four[i + 2 * j + 1] = _mm256_shuffle_ps(pair[i + j], pair[i + j + 2], 0xee);
          }
        for (int i = 0; i < 4; ++i) {
          auto* low = reinterpret_cast<float*>(to + (c + i) * rows + r);
          auto* high = reinterpret_cast<float*>(to + (c + i + 4) * rows + r);
          _mm256_storeu_ps(low, _mm256_permute2f128_ps(four[i], four[i + 4], 0x20));
          _mm256_storeu_ps(high, _mm256_permute2f128_ps(four[i], four[i + 4], 0x31));
        }
        continue;
      }
#endif
      for (int64_t i = r; i < std::min(r + block, rows); ++i)
        for (int64_t j = c; j < std::min(c + block, columns); ++j) to[j * rows + i] = from[i * columns + j];
    }
}

inline Packed pack_transposed(const Narrow& from, Bf* to) {  // k = columns: pairs of columns are words
  transpose_words(reinterpret_cast<const uint32_t*>(from.data), reinterpret_cast<uint32_t*>(to), from.rows,
                  from.stride / 2);
  return {from.stride, from.rows, to};
}

inline Narrow transpose(const Narrow& from, Bf* scratch, Bf* to) {  // a left operand
  const Packed words = pack_transposed(from, scratch);
  const auto* word = reinterpret_cast<const uint32_t*>(words.data);
  Narrow out;
  out.reshape(from.columns, from.rows);
  out.data = to;
  auto* bits = reinterpret_cast<uint16_t*>(to);
  for (int64_t column = 0; column < from.columns; ++column) {
    const uint32_t* pair = word + column / 2 * from.rows;
    uint16_t* row = bits + column * out.stride;
    const int shift = column % 2 ? 16 : 0;
    for (int64_t i = 0; i < from.rows; ++i) row[i] = uint16_t(pair[i] >> shift);
    if (out.stride > from.rows) row[from.rows] = 0;
  }
  return out;
}

// out = a b, or out += a b: bf16 factors, float32 sums
inline void multiply(Matrix<float>& out, const Narrow& a, const Packed& b, bool accumulate) {
  at::native::cpublas::brgemm(a.rows, b.n, b.k, a.stride, b.n, out.columns, accumulate, a.data, b.data,
                              out.data);
}

}  // namespace
