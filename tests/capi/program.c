/* What a framework in C does: attention on its own memory, then the same attention by plans of one
 * and of three ranks, whose bits must agree. Prints what it found, and fails with the library's words. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "seqpar.h"

enum { BATCH = 2, TOKENS = 11, HEADS = 4, DIM = 8, ELEMS = BATCH * TOKENS * HEADS * DIM };

static void ok(seqpar_status status) {
  if (status != SEQPAR_OK) {
    fprintf(stderr, "%s: %s\n", seqpar_status_name(status), seqpar_last_error());
    exit(1);
  }
}

static float value(int i) { return (float)((i * 7919 + 13) % 101) / 50.0f - 1.0f; }

/* softmax(q k^T / sqrt(D)) v, as naively as possible. */
static double largest_error(const float *q, const float *k, const float *v, const float *out) {
  double largest = 0.0;
  for (int b = 0; b < BATCH; b++)
    for (int h = 0; h < HEADS; h++)
      for (int i = 0; i < TOKENS; i++) {
        double weights[TOKENS], sum = 0.0;
        const int row = ((b * TOKENS + i) * HEADS + h) * DIM;
        for (int j = 0; j < TOKENS; j++) {
          double score = 0.0;
          for (int d = 0; d < DIM; d++) score += (double)q[row + d] * k[((b * TOKENS + j) * HEADS + h) * DIM + d];
          sum += weights[j] = exp(score / sqrt((double)DIM));
        }
        for (int d = 0; d < DIM; d++) {
          double exact = 0.0;
          for (int j = 0; j < TOKENS; j++) exact += weights[j] / sum * v[((b * TOKENS + j) * HEADS + h) * DIM + d];
          largest = fmax(largest, fabs(exact - out[row + d]));
        }
      }
  return largest;
}

static void by_kernel(float *q, float *k, float *v, float *out) {
  float lse[BATCH * HEADS * TOKENS];
  seqpar_kernels_options options;
  seqpar_kernels *kernels = NULL;
  seqpar_query_segment query;
  seqpar_key_segment key;
  seqpar_attention_args args;
  memset(&options, 0, sizeof options);
  options.struct_bytes = sizeof options;
  options.device = SEQPAR_HOST;
  ok(seqpar_kernels_create(&options, &kernels));
  memset(&query, 0, sizeof query);
  query.struct_bytes = sizeof query;
  query.rows = TOKENS;
  query.q.data = q;
  query.out.data = out;
  query.lse.data = lse;
  memset(&key, 0, sizeof key);
  key.struct_bytes = sizeof key;
  key.rows = TOKENS;
  key.stream = 1;
  key.k.data = k;
  key.v.data = v;
  memset(&args, 0, sizeof args);
  args.struct_bytes = sizeof args;
  args.dtype = SEQPAR_F32;
  args.batch = BATCH;
  args.heads = HEADS;
  args.head_dim = DIM;
  args.queries = &query;
  args.query_count = 1;
  args.keys = &key;
  args.key_count = 1;
  ok(seqpar_attention(kernels, &args, NULL));
  seqpar_kernels_destroy(kernels);
}

/* Rows of a buffer from or to a global tensor of [BATCH, TOKENS, HEADS, DIM]. */
static void move_rows(float *local, float *global, const int64_t *rows, size_t count, int to_global) {
  const size_t row = HEADS * DIM;
  for (size_t b = 0; b < BATCH; b++)
    for (size_t i = 0; i < count; i++) {
      float *here = local + (b * count + i) * row, *there = global + (b * TOKENS + (size_t)rows[i]) * row;
      memcpy(to_global ? there : here, to_global ? here : there, row * sizeof(float));
    }
}

static void by_plans(int32_t ranks, int32_t strategy, float *q, float *k, float *v, float *out) {
  seqpar_problem problem;
  seqpar_plans *plans = NULL;
  seqpar_prepared *prepared = NULL;
  void *memory[64];
  size_t bound = 0;
  memset(&problem, 0, sizeof problem);
  problem.struct_bytes = sizeof problem;
  problem.kind = SEQPAR_PROBLEM_ATTENTION;
  problem.strategy = strategy;
  problem.dtype = SEQPAR_F32;
  problem.ranks = ranks;
  problem.batch = BATCH;
  problem.tokens = TOKENS;
  problem.heads = HEADS;
  problem.head_dim = DIM;
  ok(seqpar_plans_describe(&problem, &plans));
  ok(seqpar_plans_check(plans));
  ok(seqpar_prepare_host(plans, NULL, &prepared));
  for (int pass = 0; pass < 2; pass++) {
    size_t at = 0;
    for (size_t rank = 0; rank < (size_t)ranks; rank++) {
      seqpar_summary summary;
      summary.struct_bytes = sizeof summary;
      ok(seqpar_plans_summary(plans, rank, &summary));
      for (size_t index = 0; index < summary.buffers; index++) {
        seqpar_buffer buffer;
        int64_t rows[TOKENS];
        size_t count = 0;
        float *global = NULL;
        buffer.struct_bytes = sizeof buffer;
        ok(seqpar_plans_buffer(plans, rank, index, &buffer));
        if (buffer.role == SEQPAR_ROLE_TEMP) continue;
        if (pass == 0) {
          memory[bound] = calloc(1, buffer.bytes);
          ok(seqpar_bind(prepared, rank, index, memory[bound], buffer.bytes));
          bound++;
        }
        if (strcmp(buffer.tensor, "q") == 0) global = q;
        if (strcmp(buffer.tensor, "k") == 0) global = k;
        if (strcmp(buffer.tensor, "v") == 0) global = v;
        if (strcmp(buffer.tensor, "out") == 0) global = out;
        if (global != NULL && (buffer.role == SEQPAR_ROLE_OUTPUT) == (pass == 1)) {
          ok(seqpar_plans_placement(plans, rank, index, 1, rows, TOKENS, &count));
          move_rows((float *)memory[at], global, rows, count, pass);
        }
        at++;
      }
    }
    if (pass == 0) {
      ok(seqpar_run(prepared, NULL));
      ok(seqpar_finish(prepared));
    }
  }
  for (size_t i = 0; i < bound; i++) free(memory[i]);
  seqpar_prepared_destroy(prepared);
  seqpar_plans_destroy(plans);
}

int main(void) {
  static float q[ELEMS], k[ELEMS], v[ELEMS], kernel[ELEMS], one[ELEMS], three[ELEMS];
  for (int i = 0; i < ELEMS; i++) {
    q[i] = value(i);
    k[i] = value(i + 1000);
    v[i] = value(i + 2000);
  }
  if (seqpar_version() != SEQPAR_VERSION) {
    fprintf(stderr, "library %d, header %d\n", (int)seqpar_version(), SEQPAR_VERSION);
    return 1;
  }
  by_kernel(q, k, v, kernel);
  by_plans(1, SEQPAR_SINGLE, q, k, v, one);
  by_plans(3, SEQPAR_ULYSSES, q, k, v, three);
  printf("error %s\n", largest_error(q, k, v, kernel) < 1e-5 ? "small" : "large");
  printf("plan of one rank: %s\n", memcmp(kernel, one, sizeof one) == 0 ? "same bits" : "other bits");
  printf("plans of three ranks: %s\n", memcmp(one, three, sizeof three) == 0 ? "same bits" : "other bits");
  seqpar_kernels_destroy(NULL);
  seqpar_plans_destroy(NULL);
  seqpar_prepared_destroy(NULL);
  seqpar_nccl_destroy(NULL);
  if (seqpar_plans_check(NULL) != SEQPAR_INVALID_ARGUMENT || strlen(seqpar_last_error()) == 0) return 1;
  return 0;
}
