// `gigagpt export`: a checkpoint for other programs, as one GGUF file for llama.cpp and what is
// built on it, or as a folder for Hugging Face's transformers. These know no multipliers and only
// one way of scaling attention, so those of muP are folded into the weights.
//
// llama.cpp computes GELU by its tanh approximation, "gelu_new", whatever the model was trained
// with; a model trained with the exact one, as ours are unless told otherwise, gives logits there
// that differ a little more than by rounding. Everything else is the same function.
#pragma once

#include <cstdint>

#include "cli/arguments.h"

namespace gigagpt::cli {

// Reads the checkpoint tensor by tensor, in pieces, and writes the file or folder under a temporary
// name that becomes its own at the end; an older GGUF file there is replaced, a folder is not.
// Throws Error if the checkpoint is not a GPT-2 that llama.cpp computes, or its tokenizer cannot be
// told exactly. So many values, but at least a row, are held at once: 134 MB.
void export_model(const ExportArguments& arguments, int64_t piece_values = int64_t{1} << 25);

}  // namespace gigagpt::cli
