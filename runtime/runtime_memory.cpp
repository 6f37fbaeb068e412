// Makes what divides a runtime's memory: the store of keys and values, the batcher's pages, room for requests.
#include "runtime/runtime_impl.hpp"

#include "memory/bytes.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tropilla {

/// Keys and values that other instructions or devices computed are not the same to the last bit, so they are others.
void runtime_impl::make_store() {
  if (original || (config.kv_host_bytes == 0 && config.kv_disk_bytes == 0))
    return;
  if (config.kv_disk_bytes > 0 && config.kv_folder.empty())
    throw error(errc::invalid_argument, "keys and values on the disk need a folder; name one");
  if (const auto refused = promises->promise(config.kv_host_bytes))
    throw error(errc::over_budget,
                fmt::format("there is no memory for {} of keys and values beside the devices: {}; ask for less",
                            format_bytes(config.kv_host_bytes), *refused));
  const auto shape = page_shape();
  packed_key_hash identity;
  for (const std::uint64_t number :
       {shape.model.high, shape.model.low, std::uint64_t{static_cast<std::uint8_t>(shape.type)},
        std::uint64_t{shape.precise}, std::uint64_t{shape.page_bytes()}, std::uint64_t{kv_page_tokens}})
    identity.add(number);
  std::vector<page_mover::part> parts;
  device* pins = nullptr; ///< makes memory from which it copies fast
  for (const auto& shard : shards) {
    const auto& layout = shard->placement->layout;
    parts.push_back({shard->dev, kv_page_bytes(layout, shape.type)});
    identity.add(shard->dev->isa());
    if (!layout.share.is_whole()) { // a page is in the order of the shares, stage after stage
      identity.add(static_cast<std::uint64_t>(layout.range.last));
      identity.add(static_cast<std::uint64_t>(layout.share.of(layout.share.kv_heads).count));
    }
    if (!shard->dev->host_memory())
      pins = shard->dev.get();
  }
  kv_store_options options{.page_bytes = shape.page_bytes(),
                           .host_bytes = config.kv_host_bytes,
                           .disk_bytes = config.kv_disk_bytes,
                           .folder = config.kv_folder,
                           .identity = identity.key(),
                           .model_name = facts.name,
                           .notice = config.on_notice,
                           .make_buffer = {}};
  if (pins)
    options.make_buffer = [pins](std::size_t bytes) { return pins->make_host_buffer(bytes); };
  store = std::make_shared<kv_store>(std::move(options));
  mover = std::make_unique<page_mover>(
      store, std::move(parts), [to = scheduler] { cast::tell_from_outside(to->get(), cast::pages_moved{}); },
      trace.get());
}

void runtime_impl::make_batcher() {
  const auto& shape = shards.front()->input.shape;
  kv_memory memory;
  for (const auto& shard : shards)
    memory.page_bytes.push_back(shard->page_bytes());
  memory.store = store;
  memory.extent_pages = extent_pages_of(shards.front()->input.max_kv_pages(), std::ranges::max(memory.page_bytes));
  batching =
      std::make_shared<batcher>(*tok, shape, config.queue_length, log->of(log_component::scheduler), std::move(memory));
  if (original) // it has all of its pages' bytes
    return;
  flow = std::make_shared<memory_flow>(
      memory_flow_setup{.balance = balance_,
                        .batching = batching,
                        .pinned = [shard = shards.front()] { return shard->replicas() > 0; },
                        .pledge =
                            [this](std::size_t pages) {
                              for (const auto& shard : shards)
                                shard->pledge_pages(pages);
                            },
                        .trace = trace.get(),
                        .log = log->of(log_component::memory)});
}

void runtime_impl::make_request_room() {
  request_room::more_source more;
  for (const auto& shard : shards)
    if (shard->input.holds_requests)
      more = [to = arbiter, weak = std::weak_ptr(shard)](std::size_t bytes) -> std::optional<lease> {
        const auto on = weak.lock();
        if (!on || bytes > on->unpledged_bytes()) // KV pages may want the rest
          return std::nullopt;
        auto answer = to->try_acquire({on->name(), bytes, purpose::requests, priority::background, outside_memory{}});
        if (auto* granted = std::get_if<lease>(&answer))
          return std::move(*granted);
        return std::nullopt;
      };
  room = std::make_shared<request_room>(shards.front()->input.shape.request_bytes, std::move(more));
}

} // namespace tropilla
