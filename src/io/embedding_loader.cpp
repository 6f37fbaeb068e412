// Brings rows from the model's file to a device.
#include "src/io/embedding_loader.hpp"

#include "memory/error_of.hpp"

#include <utility>

namespace tropilla {

void embedding_loader::look_up(std::vector<token_id> ids, float* out, weight_loader::done_callback done) {
  stream_->enqueue([this, ids = std::move(ids), out, done = std::move(done)] {
    std::optional<error> failure;
    try {
      failure = read(ids, out);
    } catch (...) {
      failure = error_of(std::current_exception());
    }
    done(failure ? &*failure : nullptr);
  });
}

std::optional<error> embedding_loader::read(const std::vector<token_id>& ids, float* out) {
  if (!rows_) {
    const reader_options options{.depth = best_row_depth, .mode = setup_.shape.model_mode, .scattered = true};
    rows_ =
        std::make_unique<embedding_lookup>(setup_.make_reader(setup_.files, options), setup_.layout->embedding_source(),
                                           setup_.read_buffers + setup_.shape.buffers * setup_.shape.buffer_bytes);
  }
  if (setup_.dev->host_memory())
    return rows_->read(ids, out);
  widened_.resize(ids.size() * setup_.layout->config.width);
  auto failure = rows_->read(ids, widened_.data());
  if (!failure)
    setup_.dev->upload(reinterpret_cast<const std::byte*>(widened_.data()), reinterpret_cast<std::byte*>(out),
                       widened_.size() * sizeof(float));
  return failure;
}

} // namespace tropilla
