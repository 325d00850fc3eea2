// Text to prepare, named by its first byte: JSON lines, or a file that is a text, compressed or an
// archive, as its content says.
#include "formats/corpus.h"

#include "formats/utf8.h"
#include "fuzz/fuzz.h"

namespace gigagpt {
namespace {

constexpr size_t kPiece = 64, kMost = 1 << 16, kEnough = 1 << 20;  // bytes

void check(std::string_view input) {
  if (input.empty()) return;
  const bool lines = input.front() == 'j';
  const Path path = fuzz::write(lines ? "a.jsonl" : "a.txt", input.substr(1));
  const formats::CorpusOptions options{.piece_bytes = kPiece, .max_bytes = kMost};
  std::string document;
  uint64_t documents = 0, bytes = 0;
  const auto counts =
      formats::read_corpus({path.string()}, options, [&](const formats::TextPiece& piece) {
        GIGAGPT_ASSERT(piece.text.size() <= kMost && !piece.where.empty());
        GIGAGPT_ASSERT(piece.first_byte == document.size());
        for (size_t i = 0; i < piece.text.size();) formats::next_code_point(piece.text, i, "piece");
        GIGAGPT_ASSERT(formats::count_characters(piece.text) <= piece.text.size());
        document += piece.text;
        bytes += piece.text.size();
        if (!piece.ends_document) return bytes < kEnough;
        ++documents;
        document.clear();
        return bytes < kEnough;
      });
  GIGAGPT_ASSERT(bytes >= kEnough || (counts.documents == documents && document.empty()));
}

}  // namespace
}  // namespace gigagpt

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return gigagpt::fuzz::run(data, size, gigagpt::check);
}
