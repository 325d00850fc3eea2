#include "cli/export.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>

#include "base/disk_rate.h"
#include "base/error.h"
#include "cli/display.h"
#include "cli/inspect_parts.h"
#include "cli/output.h"
#include "cli/run_settings.h"
#include "engine/run/resume.h"
#include "formats/gguf_model.h"
#include "gpt/exported.h"

namespace gigagpt::cli {
namespace {
namespace fs = std::filesystem;

using formats::FoldedTensor;
using formats::GgufEntries;
using formats::GgufSource;
using formats::GgufType;
using formats::StoredWeights;

// The tensors of a checkpoint.
StoredWeights open_weights(const Path& checkpoint, const GPTConfig& config) {
  size_t tensors = 0;
  for (const Path& file : formats::weight_files(checkpoint)) {
    tensors += formats::SafetensorsReader(file).tensors().size();
  }
  check_layers(checkpoint, config.depth, tensors);
  return {checkpoint, engine::stored_tensors(config.layers())};
}

// Rows [first, first + rows) of what the file wants are columns of the stored [in, out]: strips of
// it are read and turned, some of its rows at a time, so that whole cache lines are written.
void read_transposed(const StoredWeights& weights, const formats::StoredTensor& from, int64_t first,
                     int64_t rows, std::vector<float>& piece) {
  constexpr int64_t kStrips = 64;
  const int64_t in = from.shape[0], out = from.shape[1];
  piece.resize(size_t(rows * in));
  std::vector<float> strips(size_t(kStrips * rows));
  for (int64_t i = 0; i < in; i += kStrips) {
    const int64_t count = std::min(kStrips, in - i);
    if (rows == out) {
      weights.read_floats(from, i * out, std::span(strips).first(size_t(count * rows)));
    } else {
      for (int64_t k = 0; k < count; ++k) {
        weights.read_floats(from, (i + k) * out + first,
                            std::span(strips).subspan(size_t(k * rows), size_t(rows)));
      }
    }
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t k = 0; k < count; ++k) {
        piece[size_t(row * in + i + k)] = strips[size_t(k * rows + row)];
      }
    }
  }
}

// Multiplies the values of outputs from `first` on, `columns` each, by what is theirs.
void fold(const FoldedTensor& tensor, int64_t first, int64_t columns, std::span<float> values) {
  if (tensor.factor == 1 && tensor.query_rows == 0) return;
  for (size_t i = 0; i < values.size(); ++i)
    values[i] *= float(tensor.factor_of(first + int64_t(i) / columns));
}

// The tensor in pieces of whole rows.
void write_tensor(const StoredWeights& weights, const GgufSource& source, int64_t piece_values,
                  formats::GgufWriter& writer, const std::function<void(double values)>& progress) {
  const auto& shape = source.tensor.shape;
  const int64_t columns = shape.back();
  const int64_t all_rows = source.tensor.count() / columns;
  const int64_t piece_rows = std::max<int64_t>(piece_values / columns, 1);
  std::vector<float> piece;
  for (int64_t row = 0; row < all_rows; row += piece_rows) {
    const int64_t rows = std::min(piece_rows, all_rows - row);
    const formats::StoredTensor& from = source.values.from;
    if (from.transposed) {
      read_transposed(weights, from, row, rows, piece);
    } else {
      piece.resize(size_t(rows * columns));
      weights.read_floats(from, row * columns, piece);
    }
    // The one row of a vector has an output in each column.
    shape.size() == 1 ? fold(source.values, 0, 1, piece) : fold(source.values, row, columns, piece);
    writer.write(piece);
    progress(double(piece.size()));
  }
}

// A file that may be replaced, in a folder that is there.
void check_target(const Path& target) {
  std::error_code ignored;
  if (!target.has_filename() || fs::is_directory(target, ignored)) {
    fail("--gguf: {} is a directory, not a file", target.string());
  }
  const Path parent = target.has_parent_path() ? target.parent_path() : Path(".");
  if (!fs::is_directory(parent, ignored)) {
    fail("--gguf: there is no directory {}", parent.string());
  }
  if (!fs::exists(target, ignored)) return;
  if (first_bytes(target, 4) != "GGUF") {
    fail("--gguf: {} exists and is not a GGUF file; remove it or choose another name",
         target.string());
  }
}

void check_space(const Path& target, uint64_t bytes) {
  const uint64_t free = free_bytes(target);
  if (free >= bytes) return;
  fail("--gguf: {} takes {}, but {} are free there", target.string(), size_text(bytes),
       size_text(free));
}

GgufType type_named(const std::string& name) {
  if (name == "f32") return GgufType::kF32;
  if (name == "bf16") return GgufType::kBF16;
  return name == "q8_0" ? GgufType::kQ8_0 : GgufType::kF16;
}

// "quickstart checkpoint_1000", from the checkpoint's place.
std::string model_name(const Path& checkpoint) {
  const Path path = fs::absolute(without_slash(checkpoint)).lexically_normal();
  const std::string own = path.filename().string();
  return own.starts_with("checkpoint_") ? path.parent_path().filename().string() + " " + own : own;
}

// The checkpoint's tokenizer, or the one that was named; nothing if none is wanted.
std::optional<formats::Tokenizer> find_tokenizer(const ExportArguments& arguments,
                                                 const Path& checkpoint) {
  if (arguments.tokenizer == "none") return std::nullopt;
  if (!arguments.tokenizer.empty()) return formats::Tokenizer::load(arguments.tokenizer);
  for (const char* name : {"tokenizer.json", "vocab.json", "encoder.json"}) {
    if (fs::exists(checkpoint / name)) return formats::Tokenizer::load(checkpoint);
  }
  fail(
      "{} has no tokenizer: name a folder that has the model's by --tokenizer, or say --tokenizer "
      "none for a file that takes and gives token ids alone",
      checkpoint.string());
}

// What is not as in the checkpoint.
void print_notes(const formats::GgufModel& model,
                 const std::optional<formats::Tokenizer>& tokenizer) {
  if (!model.note.empty()) print_message("note: {}", model.note);
  if (!tokenizer || tokenizer->is_character_level() || tokenizer->end_of_text()) return;
  const int64_t end = formats::gguf_end_of_text(*tokenizer, model.vocab_size);
  if (end >= tokenizer->vocab_size()) return;
  print_message(
      "note: the tokenizer has no <|endoftext|>, but llama.cpp needs one: it will end "
      "a text after token {}, '{}'",
      end, printable(tokenizer->decode(int32_t(end))));
}

void write_file(const StoredWeights& weights, const std::vector<GgufSource>& sources,
                const GgufEntries& entries, int64_t piece_values, const Path& path,
                const Path& target) {
  std::vector<formats::GgufTensor> tensors;
  double values = 0;
  for (const GgufSource& source : sources) {
    tensors.push_back(source.tensor);
    values += double(source.tensor.count());
  }
  formats::GgufWriter writer(path, entries, tensors);
  check_space(target, writer.file_bytes());
  Display display;
  const auto progress = count_up(display, "exporting", values);
  for (const GgufSource& source : sources)
    write_tensor(weights, source, piece_values, writer, progress);
  writer.finish();
}

// Renames what was written under a temporary name by `write`, which is removed if that fails.
template <class Write>
void write_as_a_whole(const Path& target, const Write& write) {
  const Path temporary = temporary_path(target);
  try {
    write(temporary);
    if (std::rename(temporary.c_str(), target.c_str()) != 0) {
      fail_errno("cannot rename " + temporary.string());
    }
  } catch (const Error&) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    throw;
  }
  sync_parent_directory(target);
}

void export_gguf(const ExportArguments& arguments, const Path& checkpoint, const GPTConfig& config,
                 const StoredWeights& weights, int64_t piece_values) {
  const Path target = arguments.gguf;
  const std::string type = arguments.type.value_or("f16");
  auto model = formats::gguf_model(gguf_form(config), folded_tensors(config), type_named(type),
                                   model_name(checkpoint));
  const auto tokenizer = find_tokenizer(arguments, checkpoint);
  for (auto& entry : tokenizer ? formats::gguf_tokenizer(*tokenizer, model.vocab_size)
                               : formats::gguf_no_tokenizer()) {
    model.entries.push_back(std::move(entry));
  }
  write_as_a_whole(target, [&](const Path& temporary) {
    write_file(weights, model.sources, model.entries, piece_values, temporary, target);
  });
  fmt::print("{}: {}, {} of {} in {} tensors\n", target.string(), size_text(fs::file_size(target)),
             checkpoint.string(), type, model.sources.size());
  print_notes(model, tokenizer);
}

// As the file of a folder has them. Throws Error for a value that the type has not.
std::vector<std::byte> bytes_of(std::span<const float> values, const std::string& type,
                                const std::string& tensor) {
  std::vector<std::byte> bytes;
  bytes.reserve((type == "f32" ? 4 : 2) * values.size());
  const auto put = [&](const auto& bits) {
    const auto raw = std::as_bytes(std::span(&bits, 1));
    bytes.insert(bytes.end(), raw.begin(), raw.end());
  };
  const auto check = [&](bool fits, float value) {
    if (!fits) fail("{}: {} is too large for {}: choose another --type", tensor, value, type);
  };
  for (const float value : values) {
    if (type == "f32") {
      check(std::isfinite(value), value);
      put(value);
      continue;
    }
    const uint16_t half =
        type == "f16" ? formats::float_to_half(value) : formats::float_to_bf16(value);
    const uint16_t infinity = type == "f16" ? 0x7C00 : 0x7F80;
    check((half & 0x7FFF) < infinity, value);
    put(half);
  }
  return bytes;
}

// The tensors as they lie in the checkpoint, times their factors.
void write_weights(const StoredWeights& weights, const std::vector<FoldedTensor>& tensors,
                   const std::string& type, int64_t piece_values, const Path& file) {
  std::vector<formats::TensorInfo> infos;
  double values = 0;
  std::string dtype = type;
  std::ranges::transform(dtype, dtype.begin(), [](char c) { return char(std::toupper(c)); });
  for (const FoldedTensor& tensor : tensors) {
    infos.push_back({tensor.name, dtype, tensor.from.shape});
    values += double(infos.back().count());
  }
  formats::SafetensorsWriter writer(file, infos, {{"format", "pt"}});
  Display display;
  const auto progress = count_up(display, "exporting", values);
  std::vector<float> piece;
  for (size_t t = 0; t < tensors.size(); ++t) {
    const FoldedTensor& tensor = tensors[t];
    const int64_t count = infos[t].count(), columns = tensor.from.shape.back();
    const int64_t whole = std::max<int64_t>(piece_values / columns, 1) * columns;
    for (int64_t first = 0; first < count; first += whole) {
      piece.resize(size_t(std::min(whole, count - first)));
      weights.read_floats(tensor.from, first, piece);
      // Outputs are rows, but of vectors and of what is stored the other way round columns.
      if (tensor.from.shape.size() > 1 && !tensor.from.transposed) {
        fold(tensor, first / columns, columns, piece);
      } else {
        for (size_t row = 0; row < piece.size(); row += size_t(columns))
          fold(tensor, 0, 1, std::span(piece).subspan(row, size_t(columns)));
      }
      writer.write(bytes_of(piece, type, tensor.name));
      progress(double(piece.size()));
    }
  }
  writer.finish();
}

void export_folder(const ExportArguments& arguments, const Path& checkpoint,
                   const GPTConfig& config, const StoredWeights& weights, int64_t piece_values) {
  const Path target = without_slash(arguments.hf);
  const std::string type = arguments.type.value_or("f32");
  const auto tensors = folded_tensors(config);
  const auto tokenizer = find_tokenizer(arguments, checkpoint);
  const std::string dtype = type == "f32" ? "float32" : type == "f16" ? "float16" : "bfloat16";
  const Path from = arguments.tokenizer.empty() ? checkpoint : Path(arguments.tokenizer);
  write_as_a_whole(target, [&](const Path& temporary) {
    fs::create_directory(temporary);
    if (tokenizer) tokenizer->save(temporary);  // however it is written where it comes from
    const bool own = tokenizer && fs::is_regular_file(from / "tokenizer.json");
    write_folded(config, temporary, formats::Tokenizer::read(own ? from : temporary), dtype);
    write_weights(weights, tensors, type, piece_values, temporary / "model.safetensors");
  });
  fmt::print("{}: {} in {}, {} tensors, config.json{}\n", target.string(), checkpoint.string(),
             type, tensors.size(), tokenizer ? " and tokenizer" : "");
}

void check_folder(const Path& target, const std::optional<std::string>& type) {
  std::error_code ignored;
  if (fs::exists(target, ignored)) fail("--hf: {} exists already", target.string());
  const Path parent = target.has_parent_path() ? target.parent_path() : Path(".");
  if (!fs::is_directory(parent, ignored)) fail("--hf: there is no directory {}", parent.string());
  if (type == "q8_0") fail("--type: q8_0 is a type of GGUF files, not of folders");
}

}  // namespace

void export_model(const ExportArguments& arguments, int64_t piece_values) {
  const bool folder = arguments.gguf.empty();
  folder ? check_folder(without_slash(arguments.hf), arguments.type) : check_target(arguments.gguf);
  const Path checkpoint = engine::find_checkpoint(arguments.checkpoint_path);
  formats::verify_files(checkpoint, /*moments=*/false);
  GPTConfig config = GPTConfig::of_checkpoint(checkpoint);
  if (fs::exists(checkpoint /
                 "trainer_state.json")) {  // what is no part of our model, but of theirs
    GPTConfig trained;
    apply_kept_settings(checkpoint, trained);
    config.dropout = trained.dropout;
    config.parametrisation.init_std = trained.parametrisation.init_std;
  }
  const StoredWeights weights = open_weights(checkpoint, config);
  weights.check_values();
  (folder ? export_folder : export_gguf)(arguments, checkpoint, config, weights, piece_values);
}

}  // namespace gigagpt::cli
