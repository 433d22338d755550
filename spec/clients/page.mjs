// The page of deputy serve in a real browser. Arguments: its URL, the browser, a directory for screenshots. Prints { ready }
// when both pages are open, a light and a dark one; then each line on stdin is a command, answered by one line:
//   look              what the page says, as data, with all that it has asked for and complained about
//   shot NAME         NAME-light.png and NAME-dark.png in that directory; NAME-narrow.png as a telephone has it
//   contrast          the worst contrast of text and its ground, light and dark (WCAG 2.2, 1.4.3: 4.5 at least)
//   keys              what the Tab key reaches, and whether each shows that it has the focus
//   mark              remembers that this is the same document; look says if it still is
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const [url, executablePath, directory] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath, headless: true,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-default-apps", "--no-default-browser-check",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"],
});

const asked = new Set(), complaints = [];
async function open(colorScheme) {
  const page = await browser.newPage({ colorScheme, viewport: { width: 1180, height: 900 } });
  page.on("request", (request) => asked.add(new URL(request.url()).origin + new URL(request.url()).pathname));
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) complaints.push(message.text()); });
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.goto(url, { waitUntil: "load" });
  await page.waitForFunction(() => /^live/.test(document.getElementById("state").textContent));
  return page;
}
const light = await open("light"), dark = await open("dark");

function read() {
  const text = (element) => element ? element.innerText.replace(/\s+/g, " ").trim() : "";
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  return {
    state: text(document.getElementById("state")),
    where: text(document.getElementById("where")),
    notices: all(".notice").filter((each) => each.offsetParent).map(text),
    columns: all("thead th").map(text),
    llms: all("#llms tr").map((row) => all("td,th", row).map(text)),
    runs: all("#runs .run").map((run) => ({
      head: text(run.querySelector(".run-head")),
      legs: all(".leg", run).map((leg) => {
        const bar = leg.querySelector(".bar"), track = leg.querySelector(".track");
        const inner = bar?.getBoundingClientRect(), outer = track?.getBoundingClientRect();
        return { text: text(leg), inside: bar ? inner.left >= outer.left - 1 && inner.right <= outer.right + 1 : true,
          from: bar ? (inner.left - outer.left) / outer.width : 0, class: bar?.className ?? "" };
      }),
    })),
    same: window.specMark === true,
    scrolls: document.documentElement.scrollWidth > document.documentElement.clientWidth,
    lang: document.documentElement.lang, title: document.title,
  };
}

// Of every text on the page: its colour against the nearest ground behind it.
function contrast() {
  const parse = (colour) => (colour.match(/[\d.]+/g) ?? []).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  function ground(element) {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  }
  let worst = { ratio: 21 };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || !parent.checkVisibility() || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(parent.tagName)) continue;
    const [a, b] = [luminance(parse(getComputedStyle(parent).color)), luminance(ground(parent))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < worst.ratio) worst = { ratio, text: text.slice(0, 60) };
  }
  return worst;
}

async function keys() {
  await light.bringToFront();
  await light.evaluate(() => document.activeElement?.blur());
  const reached = [];
  for (let i = 0; i < 30; i++) {
    await light.keyboard.press("Tab");
    const one = await light.evaluate(() => {
      const e = document.activeElement;
      if (!e || e === document.body) return null;
      const style = getComputedStyle(e);
      return { tag: e.tagName.toLowerCase(), name: e.getAttribute("aria-label") ?? e.innerText.slice(0, 40),
        shows: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0 };
    });
    if (!one) break;
    reached.push(one);
  }
  return { reached };
}

const commands = {
  async look() { return { ...(await light.evaluate(read)), asked: [...asked], complaints }; },
  async mark() {
    await light.evaluate(() => { window.specMark = true; });
    return {};
  },
  async shot(name) {
    for (const [page, tone] of [[light, "light"], [dark, "dark"]]) {
      await page.bringToFront();
      await page.waitForFunction(() => document.querySelector("#runs .run"));
      await page.screenshot({ path: `${directory}/${name}-${tone}.png`, fullPage: true });
    }
    await light.bringToFront();
    await light.setViewportSize({ width: 390, height: 844 });
    await light.screenshot({ path: `${directory}/${name}-narrow.png` });
    const { scrolls } = await light.evaluate(read);
    await light.setViewportSize({ width: 1180, height: 900 });
    return { scrolls };
  },
  async contrast() { return { light: await light.evaluate(contrast), dark: await dark.evaluate(contrast) }; },
  keys,
};

console.log(JSON.stringify({ ready: true, version: browser.version() }));
for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...words] = line.split(" ");
  console.log(JSON.stringify(await commands[name](...words)));
}
await browser.close();
process.exit(0);
