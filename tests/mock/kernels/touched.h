// The bytes that a kernel read and wrote since the detector heard of it last: a bit a byte, so
// that the millions of accesses of a kernel become a few ranges.
#pragma once
#include <cstdint>
#include <cstring>
#include <map>
#include <vector>

#include "../engine/operation.h"

namespace mock {

class Touched {
 public:
  void add(uint64_t address, uint64_t bytes, bool write) {
    while (bytes) {
      const uint64_t at = address % kPage;
      const uint64_t here = bytes < kPage - at ? bytes : kPage - at;
      mark(page(address / kPage).bits[write], at, at + here);
      address += here;
      bytes -= here;
    }
  }

  // The ranges, ascending; nothing is touched afterwards.
  std::vector<Access> take() {
    std::vector<Access> ranges;
    for (bool write : {false, true}) collect(write, ranges);
    pages_.clear();
    last_ = nullptr;
    return ranges;
  }

 private:
  static constexpr uint64_t kPage = 4096;
  struct Page {
    uint64_t bits[2][kPage / 64] = {};
  };

  Page& page(uint64_t number) {
    if (!last_ || number != last_number_) {
      last_ = &pages_[number];
      last_number_ = number;
    }
    return *last_;
  }

  static void mark(uint64_t* bits, uint64_t from, uint64_t to) {
    for (uint64_t word = from / 64; word <= (to - 1) / 64; word++) {
      const uint64_t low = word * 64 < from ? from % 64 : 0;
      const uint64_t high = word * 64 + 64 > to ? to - word * 64 : 64;
      bits[word] |= (high == 64 ? ~0ull : (1ull << high) - 1) & ~((1ull << low) - 1);
    }
  }

  void collect(bool write, std::vector<Access>& ranges) const {
    const AccessKind kind = write ? AccessKind::kWrite : AccessKind::kRead;
    Access open{0, 0, kind};
    auto close = [&] {
      if (open.bytes) ranges.push_back(open);
      open.bytes = 0;
    };
    for (const auto& [number, page] : pages_) {
      if (open.bytes && open.address + open.bytes != number * kPage) close();
      for (uint64_t word = 0; word < kPage / 64; word++) {
        const uint64_t bits = page.bits[write][word], address = number * kPage + word * 64;
        for (uint64_t i = 0; i < 64; i++) {
          if (bits == ~0ull && i == 0) {
            if (!open.bytes) open.address = address;
            open.bytes += 64;
            break;
          }
          if (!(bits >> i & 1)) {
            close();
            if (!bits) break;
            continue;
          }
          if (!open.bytes) open.address = address + i;
          open.bytes++;
        }
      }
    }
    close();
  }

  std::map<uint64_t, Page> pages_;
  Page* last_ = nullptr;
  uint64_t last_number_ = 0;
};

}  // namespace mock
