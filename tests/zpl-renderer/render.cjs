// node render.cjs FROM.zpl TO.png WIDTH_MM HEIGHT_MM DOTS_PER_MM
const fs = require("fs");
const { createRequire } = require("module");
globalThis.crypto ??= require("crypto").webcrypto; // Node 18, which Debian 12 has, keeps it there
const { ready } = createRequire(process.env.ZPL_MODULES + "/")("zpl-renderer-js");

(async () => {
  const { api } = await ready;
  const [from, to, ...sizes] = process.argv.slice(2);
  const drawn = await api.zplToBase64Async(fs.readFileSync(from, "utf8"), ...sizes.map(Number));
  fs.writeFileSync(to, Buffer.from(drawn, "base64"));
  process.exit(0); // its runtime would wait for ever
})();
