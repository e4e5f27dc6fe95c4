// The browser that people have: headless Chromium. Drawing (WebGL) is done by the processor.

import { execFileSync } from 'node:child_process'
import { launch, type Browser } from 'puppeteer-core'

const ARGUMENTS = ['--no-sandbox', '--disable-gpu', '--enable-unsafe-swiftshader']
const PROTOCOL_MS = 600_000

export const openBrowser = (): Promise<Browser> => launch({
  executablePath: execFileSync('sh', ['-c', 'command -v chromium'], { encoding: 'utf8' }).trim(), args: ARGUMENTS, protocolTimeout: PROTOCOL_MS,
})
