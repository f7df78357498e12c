import { defineConfig } from 'vite';

export default defineConfig({
  appType: 'mpa', // a file that is absent is answered with 404
  base: './', // the page can lie in any folder of a server
  build: { target: 'es2022', chunkSizeWarningLimit: 1500, assetsInlineLimit: 0 },
  worker: { format: 'es' },
  server: { host: '127.0.0.1' },
  preview: { host: '127.0.0.1' },
});
