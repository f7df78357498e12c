// Grey images: read from JPEG, resized and turned upright as for training.
#pragma once

#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <jpeglib.h>

struct Picture {
  int width, height;
  std::vector<unsigned char> grey;  // row by row from the top
};

namespace picture_detail {

struct Failure {
  jpeg_error_mgr manager;
  std::jmp_buf jump;
};

[[noreturn]] inline void fail(j_common_ptr info) { std::longjmp(reinterpret_cast<Failure*>(info->err)->jump, 1); }

// Decodes into `picture`; false where the data are damaged. No C++ object is made after setjmp.
inline bool decode(std::FILE* file, Picture& picture) {
  jpeg_decompress_struct info;
  Failure failure;
  info.err = jpeg_std_error(&failure.manager);
  failure.manager.error_exit = fail;
  failure.manager.output_message = [](j_common_ptr) {};
  jpeg_create_decompress(&info);
  if (setjmp(failure.jump)) {
    jpeg_destroy_decompress(&info);
    return false;
  }
  jpeg_stdio_src(&info, file);
  jpeg_read_header(&info, TRUE);
  info.out_color_space = JCS_GRAYSCALE;
  jpeg_start_decompress(&info);
  picture.width = static_cast<int>(info.output_width);
  picture.height = static_cast<int>(info.output_height);
  picture.grey.resize(static_cast<size_t>(picture.width) * picture.height);
  while (info.output_scanline < info.output_height) {
    unsigned char* row = picture.grey.data() + static_cast<size_t>(info.output_scanline) * picture.width;
    jpeg_read_scanlines(&info, &row, 1);
  }
  jpeg_finish_decompress(&info);
  const bool whole = failure.manager.num_warnings == 0;
  jpeg_destroy_decompress(&info);
  return whole;
}

// Weights of a Hamming window over the area of each new pixel, as Pillow has it.
inline std::vector<std::vector<std::pair<int, double>>> weights(int from, int to) {
  const double scale = static_cast<double>(from) / to, reach = std::max(scale, 1.0), pi = std::acos(-1.0);
  std::vector<std::vector<std::pair<int, double>>> all(to);
  for (int x = 0; x < to; ++x) {
    double total = 0;
    for (int source = 0; source < from; ++source) {
      const double away = std::abs(source + 0.5 - (x + 0.5) * scale) / reach;
      if (away >= 1) continue;
      const double sinc = away == 0 ? 1 : std::sin(pi * away) / (pi * away);
      all[x].emplace_back(source, sinc * (0.54 + 0.46 * std::cos(pi * away)));
      total += all[x].back().second;
    }
    for (auto& [source, weight] : all[x]) weight /= total;
  }
  return all;
}

inline unsigned char rounded(double value) {
  return static_cast<unsigned char>(std::min(255.0, std::max(0.0, std::floor(value + 0.5))));
}

inline Picture resize(const Picture& picture, int width, int height) {
  Picture narrow{width, picture.height, std::vector<unsigned char>(static_cast<size_t>(width) * picture.height)};
  const auto across = weights(picture.width, width), down = weights(picture.height, height);
  for (int y = 0; y < picture.height; ++y) {
    for (int x = 0; x < width; ++x) {
      double sum = 0;
      for (const auto& [source, weight] : across[x]) sum += weight * picture.grey[y * picture.width + source];
      narrow.grey[y * width + x] = rounded(sum);
    }
  }
  Picture result{width, height, std::vector<unsigned char>(static_cast<size_t>(width) * height)};
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      double sum = 0;
      for (const auto& [source, weight] : down[y]) sum += weight * narrow.grey[source * width + x];
      result.grey[y * width + x] = rounded(sum);
    }
  }
  return result;
}

}  // namespace picture_detail

// A JPEG in grey; throws where it is missing or damaged.
inline Picture read_jpeg(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  Picture picture{};
  if (!file || !picture_detail::decode(file.get(), picture)) throw std::runtime_error(path + ": no JPEG, or damaged");
  return picture;
}

// The upright image of this size after quarter turns counter-clockwise; the small image is the cheaper one to turn.
inline Picture upright(const Picture& stored, int turns, int width, int height) {
  turns = (turns % 4 + 4) % 4;
  Picture picture = stored;
  const int before_width = turns % 2 ? height : width, before_height = turns % 2 ? width : height;
  if (stored.width != before_width || stored.height != before_height) {
    picture = picture_detail::resize(stored, before_width, before_height);
  }
  for (; turns > 0; --turns) {
    Picture turned{picture.height, picture.width, std::vector<unsigned char>(picture.grey.size())};
    for (int y = 0; y < turned.height; ++y) {
      for (int x = 0; x < turned.width; ++x) {
        turned.grey[y * turned.width + x] = picture.grey[x * picture.width + picture.width - 1 - y];
      }
    }
    picture = std::move(turned);
  }
  return picture;
}
