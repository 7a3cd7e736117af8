// A stock js-libp2p node driven by a Python integration test: it proves that
// what our agents speak is libp2p and not a dialect of one Python library.
//
//   node peer.mjs --dial MULTIADDR/p2p/PEER
//
// stdout, one JSON object a line:
//   {"event":"listening","peer":..,"addrs":[..]}        first line
//   {"event":"connected","peer":..,"agent":..,"protocols":[..]}  after identify
//   {"event":"ping","ms":..}
//   {"event":"frame","stream":N,"hex":..}               one frame on stream N
//   {"event":"closed","stream":N,"reason":..}           end of stream N
//   {"event":"disconnected","peer":..}
//   {"event":"error","message":..}                      a command failed; we live on
// stdin, one JSON object a line:
//   {"open":"/p2pagent/query/1","frames":["<hex>",..]}  new stream N (1, 2, ..), the old one is closed
//   {"frames":["<hex>",..]}              more frames on the open stream
//   {"end":true}                         half-close it (may ride with the two above)
//   {"ping":true} {"quit":true}
// Exit status: 0 asked to go or stdin closed, 1 could not join, 2 bad input.
import { parseArgs } from 'node:util'

// js-libp2p 3.3 calls Promise.withResolvers, which node has from 22 on; that is
// all it lacks on node 20. It must be there before libp2p is loaded, hence the
// dynamic imports (static ones are hoisted above any code).
Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new this((ok, fail) => { resolve = ok; reject = fail })
  return { promise, resolve, reject }
}
const [{ createLibp2p }, { tcp }, { noise }, { yamux }, { identify, identifyPush }, { ping }, { lpStream }, { multiaddr }] =
  await Promise.all(['libp2p', '@libp2p/tcp', '@libp2p/noise', '@libp2p/yamux', '@libp2p/identify',
    '@libp2p/ping', '@libp2p/utils', '@multiformats/multiaddr'].map(name => import(name)))

const MAX_FRAME = 1 << 20 // what the Python side accepts, too
const MAX_WAITING = 8 << 20 // commands not yet carried out: three full frames in hex
const LIFETIME_MS = 10 * 60_000 // no test is longer; a leaked node ends itself

const { values: args } = parseArgs({
  options: {
    dial: { type: 'string' }
  }
})
if (args.dial == null) {
  console.error('need --dial')
  process.exit(2)
}

// To a pipe, node writes synchronously on Linux: a test that does not read
// stalls us and, through Yamux's windows, our peers. No queue grows here.
const say = (event, more = {}) => process.stdout.write(JSON.stringify({ event, ...more }) + '\n')
const fail = err => say('error', { message: `${err?.name ?? 'Error'}: ${err?.message ?? err}` })
const hex = bytes => Buffer.from(bytes.subarray()).toString('hex')
const unhex = text => {
  if (typeof text !== 'string' || text.length % 2 !== 0 || /[^0-9a-f]/i.test(text)) throw new TypeError('not hex')
  return Buffer.from(text, 'hex')
}

process.stdout.on('error', () => process.exit(0)) // the test is gone
process.on('unhandledRejection', fail) // a peer's reset must not end the node
setTimeout(() => process.exit(2), LIFETIME_MS).unref()

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] }, // so that Python can dial us
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  // The monitor drops a connection whose ping is late, and on a busy machine
  // they are late. Judging peers is the Python side's job in this test.
  connectionMonitor: { abortConnectionOnPingFailure: false },
  services: {
    identify: identify(),
    identifyPush: identifyPush(),
    ping: ping()
  }
})
const quit = () => {
  // A clean goodbye if it is quick; the exit does not depend on it.
  setTimeout(() => process.exit(0), 1000)
  node.stop().finally(() => process.exit(0))
}

// stdin is the leash: its end, however the test died, is ours. So it is read
// before anything that can wait. Commands run one after another.
let stream, framed, opened = 0 // the newest outbound stream; an older one is closed
let ready, commands = new Promise(resolve => { ready = resolve })
let partial = '', waiting = 0
process.stdin.setEncoding('utf8')
process.stdin.on('end', quit)
process.stdin.on('error', quit)
process.stdin.on('data', chunk => {
  const lines = (partial + chunk).split('\n')
  partial = lines.pop()
  for (const line of lines.filter(Boolean)) {
    let command
    try { command = JSON.parse(line) } catch (err) { fail(err); continue }
    if (command?.quit) return quit() // not behind a stuck command
    waiting += line.length
    commands = commands.then(() => run(command)).catch(fail).finally(() => { waiting -= line.length })
  }
  // Pausing stdin would bound this as well, but then nobody watches for its end.
  if (partial.length + waiting > MAX_WAITING) {
    fail(new RangeError('too many bytes of commands waiting'))
    process.exit(2)
  }
})

async function run (command) {
  const signal = AbortSignal.timeout(30_000)
  if (command.open) {
    stream?.close().catch(() => {})
    stream = await node.dialProtocol(target, command.open, { signal })
    // Unsigned-varint length, then the bytes, both ways.
    framed = lpStream(stream, { maxDataLength: MAX_FRAME })
    readFrames(framed, ++opened)
  }
  for (const frame of command.frames ?? []) await framed.write(unhex(frame), { signal })
  if (command.end) await stream.close({ signal })
  if (command.ping) say('ping', { ms: await node.services.ping.ping(target, { signal }) })
}

async function readFrames (frames, id) {
  try {
    for (;;) say('frame', { stream: id, hex: hex(await frames.read()) })
  } catch (err) {
    say('closed', { stream: id, reason: err.name }) // UnexpectedEOFError: the peer has finished
  }
}

const target = multiaddr(args.dial)
const identified = Promise.withResolvers()
node.addEventListener('peer:identify', ({ detail }) => {
  if (args.dial.endsWith(`/p2p/${detail.peerId}`)) identified.resolve(detail)
})
node.addEventListener('peer:disconnect', ({ detail }) => say('disconnected', { peer: String(detail) }))

try {
  say('listening', { peer: String(node.peerId), addrs: node.getMultiaddrs().map(String) })
  await node.dial(target, { signal: AbortSignal.timeout(30_000) })
  const timer = setTimeout(() => identified.reject(new Error('no identify within 30 s')), 30_000)
  const { peerId, agentVersion, protocols } = await identified.promise
  clearTimeout(timer)
  say('connected', { peer: String(peerId), agent: agentVersion, protocols })
  say('ping', { ms: await node.services.ping.ping(target, { signal: AbortSignal.timeout(30_000) }) })
  ready()
} catch (err) {
  fail(err)
  process.exit(1)
}
