// The camera views: image, projected bones, and a switch that hides the view from the model.

import { cameraOf, project } from './cameras.js';
import { toHeadset } from './skeleton.js';

const POINTS_PER_BONE = 25; // a fisheye bends straight bones
const PIXELS = 560; // width of a canvas
const COLORS = { truth: '#4cc2ff', prediction: '#ff6a13', outline: '#0c0f12', cover: '#12161bd9', text: '#93a0ae' };

export class Views {
  /** Fills `element` with a figure for each view; `onSwitch()` is called when one is hidden or shown. */
  constructor(element, metadata, bones, onSwitch) {
    [this.height, this.width] = metadata.image_size_hw;
    this.model = metadata.camera_model;
    this.bones = bones;
    this.source = new OffscreenCanvas(this.width, this.height);
    this.tiles = metadata.camera_order.map((name) => {
      const figure = document.createElement('figure');
      const canvas = document.createElement('canvas');
      canvas.width = PIXELS;
      canvas.height = Math.round((PIXELS * this.height) / this.width);
      const label = document.createElement('label');
      const shown = document.createElement('input');
      shown.type = 'checkbox';
      shown.checked = true;
      shown.dataset.view = name;
      shown.addEventListener('change', onSwitch);
      label.append(shown, name.replaceAll('_', ' '));
      figure.append(canvas, label);
      return { figure, canvas, shown };
    });
    element.replaceChildren(...this.tiles.map(({ figure }) => figure));
  }

  /** Returns for each view whether it is hidden. */
  get hidden() {
    return this.tiles.map(({ shown }) => !shown.checked);
  }

  /** Draws a frame: its inputs, the predicted joints (flat, headset frame) and the truth (world frame) or null. */
  draw(inputs, joints, truth) {
    const truthHeadset = truth && { ...truth, joints: toHeadset(inputs.T_world_headset.data, truth.joints) };
    this.tiles.forEach((tile, view) => {
      const context = tile.canvas.getContext('2d');
      const camera = cameraOf(inputs, view, this.model);
      this.drawImage(context, inputs.images.data, view);
      if (!tile.shown.checked) cover(context, 'hidden from the model');
      else if (!inputs.view_valid.data[view]) cover(context, 'the camera gave no image');
      if (truthHeadset) this.drawBones(context, camera, truthHeadset.joints, truthHeadset.valid, COLORS.truth, 2.5);
      this.drawBones(context, camera, joints, null, COLORS.prediction, 4);
    });
  }

  drawImage(context, images, view) {
    const size = this.width * this.height;
    const grey = images.subarray(view * size, (view + 1) * size);
    const pixels = new ImageData(this.width, this.height);
    grey.forEach((value, i) => pixels.data.set([value, value, value, 255], 4 * i));
    this.source.getContext('2d').putImageData(pixels, 0, 0);
    context.imageSmoothingQuality = 'high';
    context.drawImage(this.source, 0, 0, context.canvas.width, context.canvas.height);
  }

  drawBones(context, camera, joints, valid, color, width) {
    const path = new Path2D();
    for (const [a, b] of this.bones) {
      if (valid !== null && !(valid[a] && valid[b])) continue;
      let drawing = false;
      for (let i = 0; i < POINTS_PER_BONE; i += 1) {
        const share = i / (POINTS_PER_BONE - 1);
        const point = [0, 1, 2].map((axis) => joints[3 * a + axis] * (1 - share) + joints[3 * b + axis] * share);
        const pixel = this.inside(project(camera, point));
        if (pixel !== null && drawing) path.lineTo(...pixel);
        else if (pixel !== null) path.moveTo(...pixel);
        drawing = pixel !== null;
      }
    }
    context.lineCap = 'round';
    context.lineJoin = 'round';
    for (const [style, extra] of [[COLORS.outline, 3], [color, 0]]) {
      context.strokeStyle = style;
      context.lineWidth = width + extra;
      context.stroke(path);
    }
  }

  /** Returns a pixel of the image in pixels of the canvas; null outside the image. Whole numbers are pixel centres. */
  inside(pixel) {
    if (pixel === null) return null;
    const [u, v] = [pixel[0] + 0.5, pixel[1] + 0.5];
    if (u < 0 || v < 0 || u > this.width || v > this.height) return null;
    return [(u * PIXELS) / this.width, (v * PIXELS) / this.width];
  }
}

function cover(context, words) {
  const { width, height } = context.canvas;
  context.fillStyle = COLORS.cover;
  context.fillRect(0, 0, width, height);
  context.fillStyle = COLORS.text;
  context.font = '26px system-ui, sans-serif';
  context.textAlign = 'center';
  context.fillText(words, width / 2, 46);
}
