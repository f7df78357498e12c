// The body in three dimensions: bones, joints, ellipsoids of uncertainty, headset and floor. World frame, y up, metres.

import * as THREE from 'three';
import { OrbitControls } from 'three/addons/controls/OrbitControls.js';

const BONE_RADIUS_M = 0.014;
const COLORS = { truth: '#4cc2ff', prediction: '#ff6a13', headset: '#c8d2dc', floor: '#333d48', background: '#1a2027' };
const UP = new THREE.Vector3(0, 1, 0);

export class BodyView {
  constructor(canvas) {
    this.canvas = canvas;
    this.renderer = new THREE.WebGLRenderer({ canvas, antialias: true });
    this.renderer.setPixelRatio(Math.min(window.devicePixelRatio, 2));
    this.scene = new THREE.Scene();
    this.scene.background = new THREE.Color(COLORS.background);
    this.camera = new THREE.PerspectiveCamera(38, 1, 0.05, 50);
    this.controls = new OrbitControls(this.camera, canvas);
    this.controls.addEventListener('change', () => this.render());
    const light = new THREE.DirectionalLight('#ffffff', 2.2);
    light.position.set(1.5, 4, 2);
    this.floor = new THREE.GridHelper(12, 24, COLORS.floor, COLORS.floor);
    this.scene.add(light, new THREE.HemisphereLight('#dfe8f2', '#40362e', 1.6), this.floor);
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.parts = new THREE.Group();
    this.scene.add(this.parts);
  }

  /** Prepares the parts of a body; `radius` scales the factors L to ellipsoids, null: there is no uncertainty. */
  build(numJoints, bones, radius) {
    this.bones = bones;
    this.radius = radius;
    this.parts.traverse((part) => {
      part.geometry?.dispose();
      part.material?.dispose();
    });
    this.parts.clear();
    this.prediction = new Figure(numJoints, bones.length, COLORS.prediction, BONE_RADIUS_M);
    this.truth = new Figure(numJoints, bones.length, COLORS.truth, BONE_RADIUS_M / 2);
    this.headset = new THREE.Mesh(new THREE.BoxGeometry(0.18, 0.09, 0.07), material(COLORS.headset));
    this.headset.matrixAutoUpdate = false;
    const ball = new THREE.SphereGeometry(1, 24, 16);
    const glass = material(COLORS.prediction, { transparent: true, opacity: 0.22, depthWrite: false });
    this.ellipsoids = Array.from({ length: radius === null ? 0 : numJoints }, () => {
      const mesh = new THREE.Mesh(ball, glass);
      mesh.matrixAutoUpdate = false;
      return mesh;
    });
    this.parts.add(this.prediction.group, this.truth.group, this.headset, ...this.ellipsoids);
    this.placed = false;
  }

  /** Draws a pose: flat joints (world), flat factors L (headset frame), flat T_world_headset, and the truth or null. */
  show(joints, cholesky, T, truth) {
    const pose = new THREE.Matrix4().set(...T);
    this.headset.matrix.copy(pose);
    this.prediction.place(joints, null, this.bones);
    this.truth.group.visible = truth !== null;
    if (truth !== null) this.truth.place(truth.joints, truth.valid, this.bones);
    const rotation = new THREE.Matrix4().extractRotation(pose);
    this.ellipsoids.forEach((mesh, j) => {
      const L = cholesky.subarray(9 * j, 9 * j + 9);
      const r = this.radius;
      const scale = new THREE.Matrix4().set(
        ...[r * L[0], r * L[1], r * L[2], 0],
        ...[r * L[3], r * L[4], r * L[5], 0],
        ...[r * L[6], r * L[7], r * L[8], 0],
        ...[0, 0, 0, 1],
      );
      mesh.matrix.multiplyMatrices(rotation, scale).setPosition(...joints.subarray(3 * j, 3 * j + 3));
    });
    this.follow(pose);
    this.render();
  }

  /** Keeps the person in the middle; at first, looks at the person from the front and a little from the side. */
  follow(pose) {
    const forward = new THREE.Vector3().setFromMatrixColumn(pose, 2).setY(0).normalize();
    const middle = new THREE.Vector3().setFromMatrixPosition(pose);
    if (!this.placed) {
      this.height = middle.y / 2 + 0.05;
      const side = new THREE.Vector3().crossVectors(UP, forward);
      middle.y = this.height;
      this.controls.target.copy(middle);
      this.camera.position.copy(middle).addScaledVector(forward, 2.7).addScaledVector(side, 1.5);
      this.camera.position.y += 0.75;
      this.placed = true;
    }
    middle.y = this.height;
    const moved = middle.sub(this.controls.target).setY(0);
    this.controls.target.add(moved);
    this.camera.position.add(moved);
    this.floor.position.set(Math.round(this.controls.target.x), 0, Math.round(this.controls.target.z));
    this.controls.update();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    this.camera.updateProjectionMatrix();
    this.render();
  }

  render() {
    this.renderer.render(this.scene, this.camera);
  }
}

/** Balls at the joints and rods along the bones. */
class Figure {
  constructor(numJoints, numBones, color, radius) {
    this.radius = radius;
    const surface = material(color);
    this.balls = new THREE.InstancedMesh(new THREE.SphereGeometry(1.7 * radius, 16, 12), surface, numJoints);
    this.rods = new THREE.InstancedMesh(new THREE.CylinderGeometry(radius, radius, 1, 12), surface, numBones);
    this.balls.frustumCulled = false;
    this.rods.frustumCulled = false;
    this.group = new THREE.Group().add(this.balls, this.rods);
  }

  /** Moves the parts to flat joints; those that are not valid (null: all are) vanish. */
  place(joints, valid, bones) {
    const nowhere = new THREE.Matrix4().makeScale(0, 0, 0);
    const at = (j) => new THREE.Vector3(...joints.subarray(3 * j, 3 * j + 3));
    for (let j = 0; j < this.balls.count; j += 1) {
      const seen = valid === null || valid[j];
      this.balls.setMatrixAt(j, seen ? new THREE.Matrix4().setPosition(at(j)) : nowhere);
    }
    bones.forEach(([a, b], i) => {
      const along = at(b).sub(at(a));
      const length = along.length();
      const seen = length > 0 && (valid === null || (valid[a] && valid[b]));
      const turn = new THREE.Quaternion().setFromUnitVectors(UP, along.normalize());
      const middle = at(a).add(at(b)).multiplyScalar(0.5);
      const placed = new THREE.Matrix4().compose(middle, turn, new THREE.Vector3(1, length, 1));
      this.rods.setMatrixAt(i, seen ? placed : nowhere);
    });
    this.balls.instanceMatrix.needsUpdate = true;
    this.rods.instanceMatrix.needsUpdate = true;
  }
}

function material(color, more = {}) {
  return new THREE.MeshStandardMaterial({ color, roughness: 0.6, ...more });
}
