// TensorBoard's event files: records of a length, its masked CRC-32C, a protobuf message
// (formats/tensorboard.proto) and its masked CRC-32C.
// https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"

namespace gigagpt::formats {

struct Scalar {
  std::string tag;  // "train/loss"; what comes before the slash is the group it is shown in
  double value;     // kept as a float
};

// One run's events: a folder with a file for each time that the run was started or continued.
// Every call writes at once, so that a process that is killed loses nothing, and throws Error
// naming the file if it cannot.
class EventWriter {
 public:
  // Goes on after `completed_steps`: opens a new file in `directory`, which is made if it is
  // missing, and voids what the older files say of later steps. At 0 they are removed.
  EventWriter(const Path& directory, int64_t completed_steps);
  void write(int64_t step, const std::vector<Scalar>& scalars);
  void write_text(int64_t step, std::string_view tag, std::string_view markdown);
  void sync() { file_.sync(); }
  const Path& path() const { return file_.path(); }

 private:
  File file_;
};

// val/loss and val/perplexity of the checkpoint of `step`, as a file of its own in `directory`,
// which is made if it is missing; evaluating it again replaces the file. Not for a folder that a
// training run writes to: TensorBoard reads the files of a folder one after the other and does not
// go back. Throws Error.
void write_eval_event(const Path& directory, int64_t step, double loss, double perplexity);

// Names and values as a table with two columns, in Markdown.
std::string markdown_table(const std::vector<std::pair<std::string, std::string>>& rows);

// A message with its length and checksums, as it is in a file.
std::string event_record(std::string_view message);

}  // namespace gigagpt::formats
