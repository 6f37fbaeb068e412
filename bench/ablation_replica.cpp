// Computes a prompt in steps, then token by token.
#include "bench/ablation_replica.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

namespace tropilla::bench {
namespace {

double seconds(bench_clock::duration d) {
  return std::chrono::duration<double>(d).count();
}

} // namespace

replica::replica(const replica_setup& setup) : setup_(setup) {
  const auto& s = setup_;
  workspace_ = s.memory->take(workspace_bytes(*s.layout, s.shape, *s.dev), purpose::workspace);
  if (s.planned) {
    offsets_ = make_plan(make_plan_input(*s.layout, s.shape, *s.dev, 0)).activations;
    arena_ = s.memory->take(offsets_.bytes, purpose::activations);
  } else {
    offsets_.offsets.assign(buffer_count, 0);
  }
  tables_.emplace(*s.layout, s.shape, *s.dev, s.planned ? arena_.get() : workspace_.get(), offsets_.offsets,
                  workspace_.get());
  if (s.trace)
    track_ = s.trace->make_track("stream " + std::string(s.dev->name()) + " compute");
}

void replica::begin_sequence() {
  kv_.clear();
  pages_.clear();
  if (setup_.planned)
    return;
  const std::size_t page = kv_page_bytes(*setup_.layout, setup_.shape.kv);
  const std::size_t count = kv_pages_for(setup_.shape.context);
  kv_.push_back(setup_.memory->take(count * page, purpose::kv));
  std::memset(kv_.front().get(), 0, count * page); // as a container does that is given a size
  for (std::size_t i = 0; i < count; ++i)
    pages_.push_back(kv_.front().get() + i * page);
}

void replica::have_pages(std::size_t tokens) {
  while (pages_.size() * kv_page_tokens < tokens) {
    kv_.push_back(setup_.memory->take(kv_page_bytes(*setup_.layout, setup_.shape.kv), purpose::kv));
    pages_.push_back(kv_.back().get());
  }
}

replica::buffers replica::buffers_for(std::size_t rows, std::size_t logit_rows) {
  if (setup_.planned)
    return {{}, *tables_};
  std::vector<block> blocks;
  for (const auto& b : forward_buffers(*setup_.layout, {setup_.shape.context, rows, logit_rows}, *setup_.dev))
    blocks.push_back(setup_.memory->take(b.bytes, purpose::activations));
  const auto lowest = std::min_element(blocks.begin(), blocks.end(),
                                       [](const block& a, const block& b) { return std::less<>()(a.get(), b.get()); });
  std::byte* const base = lowest->get();
  std::vector<std::size_t> offsets;
  for (const auto& b : blocks)
    offsets.push_back(reinterpret_cast<std::uintptr_t>(b.get()) - reinterpret_cast<std::uintptr_t>(base));
  auto space = tables_->over(base, offsets, rows, logit_rows);
  return {std::move(blocks), space};
}

replica::buffers replica::compute(std::span<const token_id> ids, std::size_t position, bool all_logits) {
  const std::size_t rows = ids.size();
  have_pages(position + rows);
  auto b = buffers_for(rows, all_logits ? rows : 1);
  step s;
  s.ids.assign(ids.begin(), ids.end());
  s.sequences.push_back({0, rows, position, pages_.data()});
  s.logit_rows.resize(all_logits ? rows : 1, rows - 1);
  if (all_logits)
    std::iota(s.logit_rows.begin(), s.logit_rows.end(), std::size_t{0});

  auto& w = *setup_.groups;
  auto last_seen = bench_clock::now();
  const auto lap = [&last_seen] {
    const auto now = bench_clock::now();
    return seconds(now - std::exchange(last_seen, now));
  };
  if (setup_.layout->embedding_on_disk())
    w.look_up(s.ids, b.space.floats(buffer::hidden));
  const std::size_t n = setup_.layout->groups.size();
  for (std::size_t g = 0; g < n;) {
    w.need(g);
    std::size_t end = g + 1;
    while (end < n && w.there(end)) { // what is there is one job
      w.need(end);
      ++end;
    }
    load_ += lap();
    {
      const trace_span span(setup_.trace, track_, "group", "first", static_cast<std::int64_t>(g));
      setup_.dev->enqueue([&, g, end](ops& o) { forward_groups(o, *setup_.layout, b.space, s, w.groups(), g, end); });
      setup_.dev->compute_stream().record().wait();
    }
    compute_ += lap();
    for (; g < end; ++g)
      w.done(g);
  }
  return b;
}

reply replica::generate(const std::vector<token_id>& prompt, std::size_t count) {
  reply out;
  begin_sequence();
  load_ = compute_ = 0;
  const std::size_t vocabulary = setup_.layout->config.vocabulary;
  const auto take_token = [&](const buffers& b) {
    out.tokens.push_back(drawer_.draw({b.space.floats(buffer::logits), vocabulary}, {}, out.tokens.size()));
  };
  std::size_t at = 0;
  const std::span<const token_id> ids(prompt);
  while (at < ids.size()) {
    const auto rows = std::min(setup_.shape.max_batch_tokens, ids.size() - at);
    const auto b = compute(ids.subspan(at, rows), at, false);
    at += rows;
    if (at == ids.size())
      take_token(b);
  }
  out.first_token = bench_clock::now();
  out.prefill_load = load_;
  out.prefill_compute = compute_;
  while (out.tokens.size() < count) {
    const token_id last = out.tokens.back();
    const auto b = compute({&last, 1}, at++, false);
    take_token(b);
  }
  out.decode = seconds(bench_clock::now() - out.first_token);
  return out;
}

void replica::score(const std::vector<token_id>& ids,
                    const std::function<void(std::size_t, std::span<const float>)>& row) {
  begin_sequence();
  const std::size_t vocabulary = setup_.layout->config.vocabulary;
  const std::span<const token_id> all(ids);
  const std::size_t max_rows = std::min(setup_.shape.max_batch_tokens, setup_.shape.logit_rows);
  for (std::size_t at = 0; at < ids.size(); at += max_rows) {
    const auto rows = std::min(max_rows, ids.size() - at);
    const auto b = compute(all.subspan(at, rows), at, true);
    for (std::size_t r = 0; r < rows; ++r)
      row(at + r, {b.space.floats(buffer::logits) + r * vocabulary, vocabulary});
  }
}

} // namespace tropilla::bench
