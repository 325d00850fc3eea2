// A store file: its header, each layer's norms, every checksum.
#include <array>

#include "base/error.h"
#include "cli/display.h"
#include "cli/inspect_parts.h"
#include "engine/state/state_file.h"

namespace gigagpt::cli {
namespace {

using engine::Segment;
using engine::StateFile;
using engine::StateLayout;

using LayerNorms = std::array<Norm, 3>;  // of what StateFile::InspectedValues has

void print_facts(const StateFile& file, const Path& path) {
  const StateLayout& layout = file.layout();
  size_t owing = 0;
  for (size_t i = 0; i < layout.segments().size(); ++i) {
    const bool own = layout.is_own(layout.segments()[i]);
    owing += own && file.slots().has_slot(i) && file.slots().steps[i] < file.step() ? 1 : 0;
  }
  fmt::print("{}: a store, version {}, id {}\n", path.string(), file.version(), file.id());
  print_fact("step", fmt::format("{}, each of {} tokens{}", file.step(), file.step_tokens(),
                                 file.pending()
                                     ? fmt::format("; its update is pending in {} of {} segments",
                                                   owing, layout.own_segments())
                                     : ""));
  print_fact("precision", engine::precision_name(layout.precision()));
  const char* form =
      layout.form().compact ? "weights in bf16 and moments in 8 bits" : "weights and moments";
  print_fact("holds", !layout.training() ? "weights alone, not for training"
                      : layout.form().gradient == engine::GradientForm::kNone
                          ? fmt::format("{}; no gradients (clip: layer)", form)
                          : fmt::format("{}, and gradients", form));
  if (layout.training()) print_fact("optimizer", layout.form().optimizer->name);
  if (layout.shard().systems > 1) {
    print_fact("shard", fmt::format("of system {} of {}: norms are of its part of each layer",
                                    layout.shard().rank, layout.shard().systems));
  }
  print_fact("size", fmt::format("{}: {} slots of {} for {} segments of up to {} elements",
                                 size_text(std::filesystem::file_size(path)), file.slot_count(),
                                 size_text(layout.slot_bytes()), layout.own_segments(),
                                 layout.most_elements()));
}

// What of the segment lies in parameters; padding may hold anything.
void add_norms(const StateLayout& layout, const Segment& s, const StateFile::InspectedValues& all,
               bool damaged, LayerNorms& norms) {
  layout.for_each_parameter(s, [&](const auto& param, const Segment& piece) {
    for (size_t i = 0; i < all.size(); ++i) {
      const engine::Array kept{int(i)};
      const int64_t count = layout.form().kept_count(param, kept);
      if (count == 0) continue;
      const bool full = kept != engine::Array::kMaster && !layout.form().compact;
      const auto place = [&](int64_t e) { return full ? layout.kept_before(s.layer, kept, e) : e; };
      const int64_t begin = place(piece.begin) - place(s.begin);
      const int64_t here = count == param.count() ? piece.count : count;
      if (!all[i].empty())
        norms[i].add(std::span(all[i]).subspan(size_t(begin), size_t(here)));
      else if (damaged)
        norms[i].spoil();
    }
  });
}

}  // namespace

void inspect_store(const Path& path) {
  const auto file = StateFile::open_to_inspect(path);
  const StateLayout& layout = file->layout();
  print_facts(*file, path);
  std::fflush(stdout);
  std::vector<LayerNorms> norms(layout.layer_count());
  std::vector<std::string> problems;
  size_t damaged = 0;
  const size_t segments = layout.own_segments();
  {
    Display display;
    display.share("checking", 0);
    StateFile::InspectedValues values;
    for (size_t i = 0; i < layout.segments().size(); ++i) {
      const Segment& s = layout.segments()[i];
      if (!layout.is_own(s)) continue;  // what it holds of others counts nothing
      const auto found = file->inspect_segment(i, values);
      add_norms(layout, s, values, !found.empty(), norms[s.layer]);
      damaged += found.empty() ? 0 : 1;
      problems.insert(problems.end(), found.begin(), found.end());
      display.share("checking", double(i + 1) / double(layout.segments().size()));
    }
  }
  print_fact("checksums", problems.empty()
                              ? "all match"
                              : fmt::format("{} of {} segments are damaged", damaged, segments));
  std::vector<std::vector<std::string>> rows = {
      {"layer", "parameters", "shapes", "|master|", "|exp_avg|", "|exp_avg_sq|"}};
  for (size_t i = 0; i < layout.layer_count(); ++i) {
    rows.push_back(layer_row(layout.spec(i), norms[i]));
  }
  print_table(rows);
  finish(problems, fmt::format("{}: {} of {} segments are damaged; go on from a checkpoint",
                               path.string(), damaged, segments));
}

}  // namespace gigagpt::cli
