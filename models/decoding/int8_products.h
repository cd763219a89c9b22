/* Products of few rows with int8 weights.

Activations are rounded to int16 a row at a time, to so many steps that no sum of products leaves int32
(`Matrix.levels`): the sums are exact. Inside a parallel region a product is divided among its threads. */

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define BLOCK 16 /* outputs whose weights lie side by side */
#define MOST 8   /* sums that are kept at once for a block: rows, times parts of their inputs */
/* Blocks at once: a pair of inputs is read once for all of them. AVX2 alone has registers for the sums of one. */
#if defined(__AVX2__) && !defined(__AVX512BW__)
#define BESIDE 1
#else
#define BESIDE 2
#endif

typedef struct {
    const int8_t *steps; /* (outputs / BLOCK, inputs / 2, BLOCK, 2), both padded with 0 */
    const float *scale;  /* (outputs,), padded */
    int64_t inputs;      /* a multiple of 2 * MOST */
    int64_t outputs;     /* without padding */
    float levels;
} Matrix;

/* Sums of BLOCK outputs. `dot` adds the products of pairs of weights with a pair of inputs. */
#if defined(__AVX512BW__)
typedef __m512i Sums;
typedef __m512i Weights;
INLINE Sums nothing(void) { return _mm512_setzero_si512(); }
INLINE Weights widened(const int8_t *w) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)w)); }
INLINE Sums plus(Sums a, Sums b) { return _mm512_add_epi32(a, b); }
INLINE void keep(int32_t *to, Sums a) { _mm512_storeu_si512(to, a); }
INLINE Sums dot(Sums a, Weights w, int32_t pair) {
#ifdef __AVX512VNNI__
    return _mm512_dpwssd_epi32(a, w, _mm512_set1_epi32(pair));
#else
    return _mm512_add_epi32(a, _mm512_madd_epi16(w, _mm512_set1_epi32(pair)));
#endif
}
#elif defined(__AVX2__)
typedef struct { __m256i low, high; } Sums;
typedef Sums Weights;
INLINE Sums nothing(void) { return (Sums){_mm256_setzero_si256(), _mm256_setzero_si256()}; }
INLINE Weights widened(const int8_t *w) {
    const __m128i *at = (const __m128i *)w;
    return (Weights){_mm256_cvtepi8_epi16(_mm_loadu_si128(at)), _mm256_cvtepi8_epi16(_mm_loadu_si128(at + 1))};
}
INLINE Sums plus(Sums a, Sums b) {
    return (Sums){_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
INLINE void keep(int32_t *to, Sums a) {
    _mm256_storeu_si256((__m256i *)to, a.low);
    _mm256_storeu_si256((__m256i *)to + 1, a.high);
}
INLINE Sums dot(Sums a, Weights w, int32_t pair) {
    const __m256i x = _mm256_set1_epi32(pair);
    return plus(a, (Sums){_mm256_madd_epi16(w.low, x), _mm256_madd_epi16(w.high, x)});
}
#else
typedef struct { int32_t of[BLOCK]; } Sums;
typedef struct { int16_t of[2 * BLOCK]; } Weights;
INLINE Sums nothing(void) { return (Sums){{0}}; }
INLINE Weights widened(const int8_t *w) {
    Weights found;
    for (int i = 0; i < 2 * BLOCK; i++) found.of[i] = w[i];
    return found;
}
INLINE Sums plus(Sums a, Sums b) {
    for (int i = 0; i < BLOCK; i++) a.of[i] += b.of[i];
    return a;
}
INLINE void keep(int32_t *to, Sums a) { memcpy(to, a.of, sizeof a.of); }
INLINE Sums dot(Sums a, Weights w, int32_t pair) {
    int16_t x[2];
    memcpy(x, &pair, sizeof pair);
    for (int i = 0; i < BLOCK; i++) a.of[i] += (int32_t)w.of[2 * i] * x[0] + (int32_t)w.of[2 * i + 1] * x[1];
    return a;
}
#endif

INLINE int64_t padded(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

/* Sums of blocks of outputs for `rows` rows of inputs, (blocks, rows, BLOCK). Each is summed in `parts`, as a sum waits
for the one before. */
INLINE void tile(const int blocks, const int rows, const int parts, const int8_t *w, const int16_t *x, int64_t inputs,
                 int32_t *sums) {
    Sums found[BESIDE * MOST];
    for (int i = 0; i < blocks * rows * parts; i++) found[i] = nothing();
    for (int64_t k = 0; k < inputs; k += 2 * parts)
        for (int part = 0; part < parts; part++) {
            Weights weights[BESIDE];
            for (int i = 0; i < blocks; i++) weights[i] = widened(w + (i * inputs + k + 2 * part) * BLOCK);
            for (int row = 0; row < rows; row++) {
                int32_t pair;
                memcpy(&pair, x + row * inputs + k + 2 * part, sizeof pair);
                for (int i = 0; i < blocks; i++) {
                    Sums *sum = found + (i * rows + row) * parts + part;
                    *sum = dot(*sum, weights[i], pair);
                }
            }
        }
    for (int i = 0; i < blocks * rows; i++) {
        Sums sum = found[i * parts];
        for (int part = 1; part < parts; part++) sum = plus(sum, found[i * parts + part]);
        keep(sums + i * BLOCK, sum);
    }
}

/* Outputs of `blocks` blocks from `first` on, for all rows: see `multiply`. */
INLINE void columns(const int blocks, const Matrix *m, int64_t first, const int16_t *x, const float *x_scale,
                    int64_t rows, float *y, int adds) {
    const int8_t *w = m->steps + first * m->inputs * BLOCK;
    const int64_t begin = first * BLOCK, left = m->outputs - begin;
    for (int64_t row = 0; row < rows;) {
        int32_t sums[BESIDE * MOST * BLOCK];
        const int16_t *from = x + row * m->inputs;
        int64_t taken = rows - row;
        if (taken >= 8) tile(blocks, 8, 1, w, from, m->inputs, sums), taken = 8;
        else if (taken >= 4) tile(blocks, 4, 2, w, from, m->inputs, sums), taken = 4;
        else if (taken >= 2) tile(blocks, 2, 4, w, from, m->inputs, sums), taken = 2;
        else tile(blocks, 1, 8, w, from, m->inputs, sums);
        for (int64_t i = 0; i < blocks; i++) {
            const int64_t count = left - i * BLOCK < BLOCK ? left - i * BLOCK : BLOCK;
            const float *scale = m->scale + begin + i * BLOCK;
            for (int64_t t = 0; t < taken; t++) {
                float *to = y + (row + t) * m->outputs + begin + i * BLOCK;
                for (int64_t j = 0; j < count; j++) {
                    const float value = (float)sums[(i * taken + t) * BLOCK + j] * scale[j] * x_scale[row + t];
                    to[j] = adds ? to[j] + value : value;
                }
            }
        }
        row += taken;
    }
}

/* Outputs (rows, outputs) of rounded inputs (rows, inputs) with a scale each, set or, with `adds`, added to `y`. */
static void multiply(const Matrix *m, const int16_t *x, const float *x_scale, int64_t rows, float *y, int adds) {
    const int64_t blocks = padded(m->outputs, BLOCK) / BLOCK;
#pragma omp for schedule(static)
    for (int64_t first = 0; first < blocks; first += BESIDE)
        if (blocks - first >= BESIDE) columns(BESIDE, m, first, x, x_scale, rows, y, adds);
        else columns(1, m, first, x, x_scale, rows, y, adds);
}

/* Round a row (count,) for a product; return the scale of its steps: not a number where the row holds such. */
static float rounded(const Matrix *m, const float *x, int64_t count, int16_t *to) {
    float most = 0, sum = 0;
#pragma omp simd reduction(max : most) reduction(+ : sum)
    for (int64_t i = 0; i < count; i++) {
        const float size = fabsf(x[i]);
        most = size > most ? size : most;
        sum += x[i];
    }
    const float factor = most > 0 ? m->levels / most : 0;
#pragma omp simd
    for (int64_t i = 0; i < count; i++) to[i] = (int16_t)(int32_t)rintf(x[i] * factor);
    memset(to + count, 0, (size_t)(m->inputs - count) * sizeof *to);
    return most / m->levels + 0 * sum;
}
