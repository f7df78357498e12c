// Cameras as the graph takes them, from a sensor.yaml; and rigid transforms.
#pragma once

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

using Matrix = std::array<double, 16>;  // 4x4, row by row; T_a_b maps coordinates in b to coordinates in a

inline Matrix matrix_of(const std::vector<double>& values) {
  if (values.size() != 16) throw std::runtime_error("a transform has " + std::to_string(values.size()) + " values, not 16");
  Matrix T;
  std::copy(values.begin(), values.end(), T.begin());
  return T;
}

inline Matrix product(const Matrix& a, const Matrix& b) {
  Matrix c{};
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) {
      for (int k = 0; k < 4; ++k) c[4 * i + j] += a[4 * i + k] * b[4 * k + j];
    }
  }
  return c;
}

// Of a rigid transform.
inline Matrix inverse(const Matrix& T) {
  Matrix inverted{};
  inverted[15] = 1;
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) {
      inverted[4 * i + j] = T[4 * j + i];
      inverted[4 * i + 3] -= T[4 * j + i] * T[4 * j + 3];
    }
  }
  return inverted;
}

// Turns a world in which `up` (x, y, z, -x, -y or -z) points up into one in which y does.
inline Matrix yup_from(const std::string& up) {
  const size_t axis = std::string("xyz").find(up.back());
  if (axis == std::string::npos) throw std::runtime_error("world_up is '" + up + "', not x, y or z");
  Matrix T{};
  T[15] = 1;
  for (size_t row = 0; row < 3; ++row) {
    const double sign = up.front() == '-' && row > 0 ? -1 : 1;
    T[4 * row + (axis + std::array<size_t, 3>{2, 0, 1}[row]) % 3] = sign;
  }
  return T;
}

// A lens in the order of the graph's inputs.
struct Camera {
  std::string model;  // fisheye, rational or pinhole
  std::array<double, 2> size_px, focal_px, center_px, tangential;
  std::array<double, 6> radial;
  std::array<double, 4> thin_prism;
  double max_angle_rad;  // the model is valid below it
};

// The camera of the stored image, and camera to body.
inline std::tuple<Camera, Matrix> read_sensor(const std::string& path) {
  try {
    const YAML::Node file = YAML::LoadFile(path);
    const auto size = file["resolution"].as<std::array<double, 2>>();
    const auto lens = file["intrinsics"].as<std::array<double, 4>>();
    const auto kind = file["distortion_model"].as<std::string>();
    auto c = file["distortion_coefficients"].as<std::vector<double>>();
    c.resize(12);
    if (!file["max_angle_rad"]) throw std::runtime_error("needs max_angle_rad, up to which the lens model holds");
    Camera camera{"", size, {lens[0], lens[1]}, {lens[2], lens[3]}, {}, {}, {}, file["max_angle_rad"].as<double>()};
    if (kind == "fisheye624" || kind == "fisheye62" || kind == "equidistant") {
      camera.model = "fisheye";
      std::copy(c.begin(), c.begin() + 6, camera.radial.begin());
      camera.tangential = {c[6], c[7]};
    } else if (kind == "radtan" || kind == "plumb_bob" || kind == "rational") {  // k1 k2 p1 p2 k3 ... as in OpenCV
      camera.model = "rational";
      camera.radial = {c[0], c[1], c[4], c[5], c[6], c[7]};
      camera.tangential = {c[3], c[2]};
    } else if (kind == "none") {
      camera.model = "pinhole";
    } else {
      throw std::runtime_error("distortion_model '" + kind + "' is not one that this example knows");
    }
    std::copy(c.begin() + 8, c.end(), camera.thin_prism.begin());
    return {camera, matrix_of(file["T_BS"]["data"].as<std::vector<double>>())};
  } catch (const std::exception& error) {
    throw std::runtime_error(path + ": " + error.what());
  }
}

// Turns the camera with its image by a quarter counter-clockwise: x of the new one is y of the old, y is -x.
inline void turn_quarter(Camera& camera, Matrix& T_cam_headset) {
  const auto s = camera.thin_prism;
  camera.center_px = {camera.center_px[1], camera.size_px[0] - 1 - camera.center_px[0]};
  camera.tangential = {camera.tangential[1], -camera.tangential[0]};
  camera.thin_prism = {s[2], s[3], -s[0], -s[1]};
  std::swap(camera.focal_px[0], camera.focal_px[1]);
  std::swap(camera.size_px[0], camera.size_px[1]);
  for (int j = 0; j < 4; ++j) {
    const double x = T_cam_headset[j];
    T_cam_headset[j] = T_cam_headset[4 + j];
    T_cam_headset[4 + j] = -x;
  }
}

// Scales the camera with its image; the centre of a pixel is a whole number.
inline void resize(Camera& camera, int width, int height) {
  const std::array<double, 2> size = {static_cast<double>(width), static_cast<double>(height)};
  for (int axis = 0; axis < 2; ++axis) {
    const double scale = size[axis] / camera.size_px[axis];
    camera.focal_px[axis] *= scale;
    camera.center_px[axis] = (camera.center_px[axis] + 0.5) * scale - 0.5;
  }
  camera.size_px = size;
}
