/* A step of decoding: a few tokens through all layers of a GPT, in one call.

Weights are int8, 255 steps around 0 and a scale for each output. Activations are rounded to int16 a row at a time, to so
many steps that no sum of products leaves int32 (`Matrix.levels`); sums are exact, and all else is float32. Keys and
values are bfloat16. One thread or several: of a parallel region all of whose loops meet in barriers. `compiled.py` holds
the same structures, and `network.py` says what a step is. */

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define BLOCK 16 /* outputs whose weights lie side by side */
#define MOST 8   /* sums that are kept at once: rows, times parts of their inputs */

typedef struct {
    const int8_t *steps; /* (outputs / BLOCK, inputs / 2, BLOCK, 2), both padded with 0 */
    const float *scale;  /* (outputs,), padded */
    int64_t inputs;      /* a multiple of 2 * MOST */
    int64_t outputs;     /* without padding */
    float levels;
} Matrix;

typedef struct {
    Matrix qkv, out, gate_up, down;
    const float *scale; /* (2, dim), of queries and keys of length 1 */
} Layer;

typedef struct {
    int64_t num_ids, num_layers, width, heads, dim, inner;
    float norm_epsilon, head_epsilon; /* what is added to the squared length of a row and of a head */
    const float *embedding;           /* (ids, width) */
    const float *norm;                /* (width,) */
    const Layer *layers;
} Network;

typedef struct {
    uint16_t *store; /* bfloat16, (layers, 2, rows, heads, slots, dim) with the strides below, in numbers */
    int64_t layer, part, row, head;
    int64_t slots, visible; /* those there are, and those that are looked at */
} Cache;

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

/* Sums of a block of outputs for `rows` rows of inputs. Each is summed in `parts`, as a sum waits for the one before. */
INLINE void tile(const int rows, const int parts, const int8_t *w, const int16_t *x, int64_t inputs, int32_t *sums) {
    Sums found[MOST];
    for (int i = 0; i < rows * parts; i++) found[i] = nothing();
    for (int64_t k = 0; k < inputs; k += 2 * parts)
        for (int part = 0; part < parts; part++) {
            const Weights weights = widened(w + (k + 2 * part) * BLOCK);
            for (int row = 0; row < rows; row++) {
                int32_t pair;
                memcpy(&pair, x + row * inputs + k + 2 * part, sizeof pair);
                found[row * parts + part] = dot(found[row * parts + part], weights, pair);
            }
        }
    for (int row = 0; row < rows; row++) {
        Sums sum = found[row * parts];
        for (int part = 1; part < parts; part++) sum = plus(sum, found[row * parts + part]);
        keep(sums + row * BLOCK, sum);
    }
}

/* Outputs (rows, outputs) of rounded inputs (rows, inputs) with a scale each, set or, with `adds`, added to `y`. */
static void multiply(const Matrix *m, const int16_t *x, const float *x_scale, int64_t rows, float *y, int adds) {
    const int64_t blocks = padded(m->outputs, BLOCK) / BLOCK;
#pragma omp for schedule(static)
    for (int64_t block = 0; block < blocks; block++) {
        const int8_t *w = m->steps + block * m->inputs * BLOCK;
        const float *scale = m->scale + block * BLOCK;
        const int64_t count = m->outputs - block * BLOCK < BLOCK ? m->outputs - block * BLOCK : BLOCK;
        for (int64_t row = 0; row < rows;) {
            int32_t sums[MOST * BLOCK];
            const int16_t *from = x + row * m->inputs;
            int64_t taken = rows - row;
            if (taken >= 8) tile(8, 1, w, from, m->inputs, sums), taken = 8;
            else if (taken >= 4) tile(4, 2, w, from, m->inputs, sums), taken = 4;
            else if (taken >= 2) tile(2, 4, w, from, m->inputs, sums), taken = 2;
            else tile(1, 8, w, from, m->inputs, sums);
            for (int64_t i = 0; i < taken; i++, row++) {
                float *to = y + row * m->outputs + block * BLOCK;
                for (int64_t j = 0; j < count; j++) {
                    const float value = (float)sums[i * BLOCK + j] * scale[j] * x_scale[row];
                    to[j] = adds ? to[j] + value : value;
                }
            }
        }
    }
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

static float inverse_length(const float *x, int64_t count, float epsilon) {
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < count; i++) squares += x[i] * x[i];
    return 1 / sqrtf(squares + epsilon);
}

INLINE float from_bfloat16(uint16_t bits) {
    union { uint32_t bits; float value; } both = {(uint32_t)bits << 16};
    return both.value;
}

/* To the nearest, as torch rounds; what is no number stays none. */
INLINE uint16_t to_bfloat16(float value) {
    union { float value; uint32_t bits; } both = {value};
    const uint32_t nearest = (both.bits + 0x7fff + (both.bits >> 16 & 1)) >> 16;
    return (uint16_t)(value == value ? nearest : 0x7fc0);
}

/* e to the power of x within 2e-7 of itself (its series around whole powers of 2); 1e-38 and 1e38 at most. */
INLINE float exponential(float x) {
    float power = x * 1.44269504f;
    power = power < -126 ? -126 : power > 126 ? 126 : power;
    const float whole = rintf(power), f = (power - whole) * 0.693147181f;
    const float series = 1 + f * (1 + f * (0.5f + f * (1 / 6.f + f * (1 / 24.f + f * (1 / 120.f + f / 720.f)))));
    union { uint32_t bits; float value; } scale = {(uint32_t)((int32_t)whole + 127) << 23};
    return series * scale.value;
}

/* Bring queries and keys (2, heads, dim) of one token to their length and turn them, and write key and value down. */
static void place(const Network *n, const Layer *layer, float *qkv, const float *turn, uint16_t *kv, const Cache *c) {
    const int64_t dim = n->dim, width = n->width;
    for (int64_t part = 0; part < 2; part++)
        for (int64_t head = 0; head < n->heads; head++) {
            float *x = qkv + part * width + head * dim;
            const float *scale = layer->scale + part * dim;
            const float length = inverse_length(x, dim, n->head_epsilon);
            for (int64_t i = 0; i < dim; i += 2) {
                const float real = x[i] * length * scale[i], imaginary = x[i + 1] * length * scale[i + 1];
                x[i] = real * turn[i] - imaginary * turn[i + 1];
                x[i + 1] = real * turn[i + 1] + imaginary * turn[i];
            }
        }
    for (int64_t part = 0; part < 2; part++)
        for (int64_t head = 0; head < n->heads; head++)
            for (int64_t i = 0; i < dim; i++)
                kv[part * c->part + head * c->head + i] = to_bfloat16(qkv[(part + 1) * width + head * dim + i]);
}

/* Attention of one head of one token to `seen` slots; `weights` holds as many numbers. */
static void attend(const float *q, const uint16_t *k, const uint16_t *v, int64_t seen, int64_t dim, float *weights,
                   float *to) {
    const float scale = 1 / sqrtf((float)dim);
    float most = -INFINITY, total = 0;
    for (int64_t slot = 0; slot < seen; slot++) {
        const uint16_t *key = k + slot * dim;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < dim; i++) sum += q[i] * from_bfloat16(key[i]);
        weights[slot] = sum * scale;
        most = weights[slot] > most ? weights[slot] : most;
    }
#pragma omp simd reduction(+ : total)
    for (int64_t slot = 0; slot < seen; slot++) {
        weights[slot] = exponential(weights[slot] - most);
        total += weights[slot];
    }
    for (int64_t i = 0; i < dim; i++) to[i] = 0;
    for (int64_t slot = 0; slot < seen; slot++) {
        const uint16_t *value = v + slot * dim;
        const float weight = weights[slot] / total;
#pragma omp simd
        for (int64_t i = 0; i < dim; i++) to[i] += weight * from_bfloat16(value[i]);
    }
}

/* Parts of the memory that a step works in. */
typedef struct {
    float *x, *wide, *attended, *scale, *weights;
    int16_t *rounded;
} Scratch;

static int64_t widest(const Network *n) { return 3 * n->width > 2 * n->inner ? 3 * n->width : 2 * n->inner; }

/* Inputs of a product at most, padded. */
static int64_t longest(const Network *n) { return padded(n->width > n->inner ? n->width : n->inner, 2 * MOST); }

static Scratch divided(const Network *n, int64_t tokens, int64_t visible, int64_t threads, float *memory) {
    Scratch s;
    s.x = memory;
    s.wide = s.x + tokens * n->width;
    s.attended = s.wide + tokens * widest(n);
    s.scale = s.attended + tokens * n->width;
    s.weights = s.scale + tokens;
    s.rounded = (int16_t *)(s.weights + threads * padded(visible, BLOCK));
    return s;
}

/* Return the bytes of memory that a step of so many tokens needs. */
EXPORT int64_t step_bytes(const Network *n, int64_t tokens, int64_t visible, int64_t threads) {
    const int64_t floats = tokens * (2 * n->width + widest(n) + 1) + threads * padded(visible, BLOCK);
    return floats * (int64_t)sizeof(float) + tokens * longest(n) * (int64_t)sizeof(int16_t);
}

static int64_t thread_number(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

static void layer_of(const Network *n, const Layer *layer, const Scratch *s, int64_t tokens, int64_t per_row,
                     const int64_t *slots, const float *turn, const Cache *c) {
    const int64_t width = n->width, dim = n->dim, inner = n->inner;
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tokens; t++) {
        const float *x = s->x + t * width;
        const float length = inverse_length(x, width, n->norm_epsilon);
        s->scale[t] = rounded(&layer->qkv, x, width, s->rounded + t * layer->qkv.inputs) * length;
    }
    multiply(&layer->qkv, s->rounded, s->scale, tokens, s->wide, 0);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tokens; t++)
        place(n, layer, s->wide + 3 * t * width, turn + t * dim, c->store + t / per_row * c->row + slots[t] * dim, c);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < tokens * n->heads; i++) {
        const int64_t t = i / n->heads, head = i % n->heads, seen = slots[t] + 1 < c->visible ? slots[t] + 1 : c->visible;
        const uint16_t *k = c->store + t / per_row * c->row + head * c->head;
        attend(s->wide + 3 * t * width + head * dim, k, k + c->part, seen, dim,
               s->weights + thread_number() * padded(c->visible, BLOCK), s->attended + i * dim);
    }
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tokens; t++)
        s->scale[t] = rounded(&layer->out, s->attended + t * width, width, s->rounded + t * layer->out.inputs);
    multiply(&layer->out, s->rounded, s->scale, tokens, s->x, 1);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tokens; t++) {
        const float *x = s->x + t * width;
        const float length = inverse_length(x, width, n->norm_epsilon);
        s->scale[t] = rounded(&layer->gate_up, x, width, s->rounded + t * layer->gate_up.inputs) * length;
    }
    multiply(&layer->gate_up, s->rounded, s->scale, tokens, s->wide, 0);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tokens; t++) {
        float *gate = s->wide + 2 * t * inner, *up = gate + inner;
#pragma omp simd
        for (int64_t i = 0; i < inner; i++) gate[i] = gate[i] / (1 + exponential(-gate[i])) * up[i];
        s->scale[t] = rounded(&layer->down, gate, inner, s->rounded + t * layer->down.inputs);
    }
    multiply(&layer->down, s->rounded, s->scale, tokens, s->x, 1);
}

/* Take tokens (rows, per_row) with their slots and rotations (tokens, dim / 2) complex through the network; write their
last hidden states (tokens, width) to `hidden`. Return 0, or -1 without having done anything for an id or slot that there
is not. */
EXPORT int64_t step(const Network *n, const Cache *cache, int64_t tokens, int64_t per_row, const int64_t *ids,
                    const int64_t *slots, const float *turn, float *hidden, void *memory, int64_t threads) {
    const Scratch s = divided(n, tokens, cache->visible, threads, memory);
    const int64_t width = n->width;
    for (int64_t t = 0; t < tokens; t++)
        if (ids[t] < 0 || ids[t] >= n->num_ids || slots[t] < 0 || slots[t] >= cache->slots) return -1;
#pragma omp parallel num_threads((int)threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tokens; t++)
            memcpy(s.x + t * width, n->embedding + ids[t] * width, (size_t)width * sizeof(float));
        Cache at = *cache;
        for (int64_t number = 0; number < n->num_layers; number++, at.store += at.layer)
            layer_of(n, n->layers + number, &s, tokens, per_row, slots, turn, &at);
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tokens; t++) {
            const float *x = s.x + t * width, length = inverse_length(x, width, n->norm_epsilon);
            for (int64_t i = 0; i < width; i++) hidden[t * width + i] = x[i] * length * n->norm[i];
        }
    }
    return 0;
}

/* Multiply rows (rows, count) by a matrix: (rows, outputs). `memory` holds rows * (inputs * 2 + 4) bytes. */
EXPORT void product(const Matrix *m, int64_t rows, int64_t count, const float *x, float *y, void *memory,
                    int64_t threads) {
    float *scale = memory;
    int16_t *at = (int16_t *)(scale + rows);
#pragma omp parallel num_threads((int)threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++)
            scale[row] = rounded(m, x + row * count, count, at + row * m->inputs);
        multiply(m, at, scale, rows, y, 0);
    }
}
