// Calls the worker that runs the graph; each call is answered by a promise.

export class Stepper {
  constructor() {
    this.worker = new Worker(new URL('./stepper.worker.js', import.meta.url), { type: 'module' });
    this.waiting = new Map();
    this.worker.onmessage = ({ data: { id, result, error } }) => {
      const { resolve, reject } = this.waiting.get(id);
      this.waiting.delete(id);
      if (error === undefined) resolve(result);
      else reject(new Error(error));
    };
    this.worker.onerror = (event) => {
      for (const { reject } of this.waiting.values()) reject(new Error(event.message || 'the worker did not start'));
      this.waiting.clear();
    };
    this.calls = 0;
  }

  open(argument) {
    return this.call('open', argument);
  }

  reset() {
    return this.call('reset');
  }

  step(frame) {
    return this.call('step', { frame });
  }

  close() {
    this.worker.terminate();
  }

  call(call, argument) {
    this.calls += 1;
    const id = this.calls;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, call, argument });
    });
  }
}
