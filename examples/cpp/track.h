// Tables of a recording: rows with a time stamp, and the poses of the body.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "camera.h"

// The cells of a CSV file below its header (#); each row has at least `columns`.
inline std::vector<std::vector<std::string>> read_rows(const std::string& path, size_t columns) {
  std::ifstream file(path);
  std::vector<std::vector<std::string>> rows;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty() || line[0] == '#') continue;
    std::istringstream cells(line);
    rows.emplace_back();
    for (std::string cell; std::getline(cells, cell, ',');) rows.back().push_back(cell);
    if (rows.back().size() < columns) throw std::runtime_error(path + ": a row has too few cells: " + line);
  }
  if (rows.empty()) throw std::runtime_error(path + ": missing, or without rows");
  return rows;
}

// The place of the nearest of increasing times.
inline size_t nearest(const std::vector<int64_t>& stamps_ns, int64_t stamp_ns) {
  const size_t after = std::lower_bound(stamps_ns.begin(), stamps_ns.end(), stamp_ns) - stamps_ns.begin();
  if (after == 0 || (after < stamps_ns.size() && stamps_ns[after] - stamp_ns < stamp_ns - stamps_ns[after - 1])) {
    return after;
  }
  return after - 1;
}

inline double median_step_ns(const std::vector<int64_t>& stamps_ns) {
  std::vector<double> steps;
  for (size_t i = 1; i < stamps_ns.size(); ++i) steps.push_back(static_cast<double>(stamps_ns[i] - stamps_ns[i - 1]));
  if (steps.empty()) throw std::runtime_error("the recording has fewer than two frames");
  std::sort(steps.begin(), steps.end());
  return (steps[(steps.size() - 1) / 2] + steps[steps.size() / 2]) / 2;
}

// Poses of the body in the recording's world.
class PoseTrack {
 public:
  explicit PoseTrack(const std::string& path) {
    for (const auto& row : read_rows(path, 8)) {
      stamps_ns_.push_back(std::stoll(row[0]));
      std::array<double, 7> values;  // x y z, then the quaternion w x y z
      for (int i = 0; i < 7; ++i) values[i] = std::stod(row[i + 1]);
      rows_.push_back(values);
    }
  }

  // Beyond the ends, a row must be within 5 ms.
  bool is_near(int64_t stamp_ns, double max_gap_ns) const {
    if (stamp_ns < stamps_ns_.front() || stamp_ns > stamps_ns_.back()) max_gap_ns = std::min(max_gap_ns, 5e6);
    return std::abs(static_cast<double>(stamps_ns_[nearest(stamps_ns_, stamp_ns)] - stamp_ns)) <= max_gap_ns;
  }

  // T_world_body at a time: slerp and lerp between the rows around it.
  Matrix at(int64_t stamp_ns) const {
    const size_t upper = std::upper_bound(stamps_ns_.begin(), stamps_ns_.end(), stamp_ns) - stamps_ns_.begin();
    const size_t a = upper == 0 ? 0 : upper - 1, b = std::min(upper, rows_.size() - 1);
    const double share = a == b ? 0 : static_cast<double>(stamp_ns - stamps_ns_[a]) / (stamps_ns_[b] - stamps_ns_[a]);
    const auto &one = rows_[a], &other = rows_[b];
    double cosine = 0, length = 0;
    for (int i = 3; i < 7; ++i) cosine += one[i] * other[i];
    const double angle = std::acos(std::min(1.0, std::abs(cosine)));
    const double sine = std::sin(angle), sign = cosine < 0 ? -1 : 1;
    const double p = sine < 1e-9 ? 1 - share : std::sin((1 - share) * angle) / sine;
    const double q = sign * (sine < 1e-9 ? share : std::sin(share * angle) / sine);
    std::array<double, 4> r;
    for (int i = 0; i < 4; ++i) {
      r[i] = p * one[i + 3] + q * other[i + 3];
      length += r[i] * r[i];
    }
    for (double& value : r) value /= std::sqrt(length);
    const auto [w, x, y, z] = r;
    const auto lerp = [&](int i) { return (1 - share) * one[i] + share * other[i]; };
    return {1 - 2 * (y * y + z * z), 2 * (x * y - z * w),     2 * (x * z + y * w),     lerp(0),
            2 * (x * y + z * w),     1 - 2 * (x * x + z * z), 2 * (y * z - x * w),     lerp(1),
            2 * (x * z - y * w),     2 * (y * z + x * w),     1 - 2 * (x * x + y * y), lerp(2),
            0,                       0,                       0,                       1};
  }

 private:
  std::vector<int64_t> stamps_ns_;
  std::vector<std::array<double, 7>> rows_;
};
