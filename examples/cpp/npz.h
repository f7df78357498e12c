// Reads the arrays that numpy.savez wrote: .npy members, stored without compression in a zip.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

struct Array {
  std::string dtype;  // numpy's, such as "<f4"
  std::vector<int64_t> shape;
  std::vector<char> bytes;  // C order

  size_t size() const {
    return std::accumulate(shape.begin(), shape.end(), size_t{1}, std::multiplies<>());
  }
};

namespace npz_detail {

template <typename T>
T little_endian(const std::string& data, size_t at) {
  if (at + sizeof(T) > data.size()) throw std::runtime_error("the zip ends too early");
  T value;
  std::memcpy(&value, data.data() + at, sizeof(T));
  return value;
}

inline Array parse_npy(const std::string& data, const std::string& name) {
  if (data.size() < 12 || data.compare(0, 6, "\x93NUMPY") != 0) throw std::runtime_error(name + " is no .npy array");
  const bool wide = data[6] > 1;
  const size_t length = wide ? little_endian<uint32_t>(data, 8) : little_endian<uint16_t>(data, 8);
  const size_t start = wide ? 12 : 10;
  const std::string header = data.substr(start, length);
  const auto value_of = [&](const std::string& key) {
    const size_t at = header.find("'" + key + "':");
    if (at == std::string::npos) throw std::runtime_error(name + ": its header has no " + key);
    return header.substr(header.find_first_not_of(' ', at + key.size() + 3));
  };
  if (value_of("fortran_order").compare(0, 5, "False") != 0) throw std::runtime_error(name + " is not in C order");
  Array array;
  const std::string dtype = value_of("descr");
  array.dtype = dtype.substr(1, dtype.find('\'', 1) - 1);
  const std::string shape = value_of("shape");
  for (size_t i = 1; i < shape.find(')');) {
    size_t used = 0;
    array.shape.push_back(std::stoll(shape.substr(i), &used));
    i = shape.find_first_not_of(", ", i + used);
  }
  array.bytes.assign(data.begin() + start + length, data.end());
  const size_t letters = array.dtype[1] == 'U' ? 4 : 1;  // text has four bytes a letter
  if (array.size() * letters * std::stoul(array.dtype.substr(2)) != array.bytes.size()) {
    throw std::runtime_error(name + ": its size is not that of its shape");
  }
  return array;
}

}  // namespace npz_detail

// Returns the arrays of the file by name; throws std::runtime_error that says what is wrong with it.
inline std::map<std::string, Array> read_npz(const std::string& path) {
  using npz_detail::little_endian;
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be opened");
  const std::string data{std::istreambuf_iterator<char>(file), {}};
  const size_t end = data.rfind("PK\5\6");  // the directory at the end of a zip
  if (end == std::string::npos) throw std::runtime_error(path + ": is no zip");
  const uint16_t members = little_endian<uint16_t>(data, end + 10);
  size_t entry = little_endian<uint32_t>(data, end + 16);
  std::map<std::string, Array> arrays;
  for (uint16_t i = 0; i < members; ++i) {
    if (data.compare(entry, 4, "PK\1\2") != 0) throw std::runtime_error(path + ": its directory is damaged");
    const uint32_t size = little_endian<uint32_t>(data, entry + 24);
    const uint16_t name_length = little_endian<uint16_t>(data, entry + 28);
    const uint32_t local = little_endian<uint32_t>(data, entry + 42);
    const std::string name = data.substr(entry + 46, name_length);
    if (little_endian<uint16_t>(data, entry + 10) != 0) {
      throw std::runtime_error(path + ": " + name + " is compressed; write it with numpy.savez");
    }
    const size_t start =
        local + 30 + little_endian<uint16_t>(data, local + 26) + little_endian<uint16_t>(data, local + 28);
    if (size == 0xffffffff || start + size > data.size()) throw std::runtime_error(path + ": " + name + " is cut off");
    arrays[name.substr(0, name.rfind(".npy"))] = npz_detail::parse_npy(data.substr(start, size), name);
    entry += 46 + name_length + little_endian<uint16_t>(data, entry + 30) + little_endian<uint16_t>(data, entry + 32);
  }
  return arrays;
}
