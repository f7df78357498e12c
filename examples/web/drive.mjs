// Drives the built page in headless Chromium and prints what it shows as JSON, for tests/deploy/test_web_example.py.
//
//   node drive.mjs CHROMIUM ADDRESS PROFILE_DIR CASES
//
// CASES is JSON by name: {files: to open, none for the default; screenshot: where to write a picture}.

import { chromium } from 'playwright-core';

const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--enable-unsafe-swiftshader', // WebGL without a GPU
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];
const LIMIT_MS = 120_000;
const HIDDEN_VIEW = 1;

const [executablePath, address, profile, cases] = process.argv.slice(2);
const browser = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: true,
  args: FLAGS,
  viewport: { width: 1360, height: 880 },
});
browser.setDefaultTimeout(LIMIT_MS);

async function drive({ files = [], screenshot }) {
  const page = await browser.newPage();
  const errors = [];
  page.on('console', (message) => { if (message.type() === 'error') errors.push(message.text()); });
  page.on('pageerror', (error) => errors.push(String(error)));
  const reached = (...states) => page.waitForFunction((names) => names.includes(document.body.dataset.state), states);
  const numbers = () => page.evaluate(() => Object.fromEntries(
    ['latency', 'parity', 'change', 'error'].map((id) => {
      const output = document.getElementById(id);
      return [id, { text: output.textContent, value: Number(output.dataset.value), look: output.className }];
    }),
  ));
  const progress = () => page.locator('#progress').evaluate((bar) => bar.value);

  await page.goto(address);
  await reached('paused', 'failed', 'empty');
  if (files.length > 0) {
    await page.evaluate(() => { document.body.dataset.state = 'waiting'; });
    await page.setInputFiles('#files', files);
    await reached('paused', 'failed');
  }
  const result = await page.evaluate(() => ({
    state: document.body.dataset.state,
    message: document.getElementById('message').textContent,
    about: document.getElementById('about').textContent,
  }));
  if (result.state === 'paused') {
    await page.click('#play');
    const frames = Number(result.about.match(/(\d+) frames/)[1]);
    await page.waitForFunction((all) => Number(document.getElementById('parity').dataset.frames) === all, frames);
    result.frames = frames;
    result.asRecorded = await numbers();
    await page.locator('#views input').nth(HIDDEN_VIEW).uncheck();
    await page.waitForFunction(() => Number(document.getElementById('change').dataset.value) > 1e-4);
    result.hidden = await numbers();
    if (screenshot) await page.screenshot({ path: screenshot });
    await page.click('#play');
    await reached('paused');
    const before = await progress();
    await page.waitForTimeout(500);
    result.stands = (await progress()) === before;
  }
  await page.close();
  return { ...result, errors };
}

try {
  const results = {};
  for (const [name, one] of Object.entries(JSON.parse(cases))) results[name] = await drive(one);
  console.log(JSON.stringify(results));
} finally {
  await browser.close();
}
