// Search on pages that are opened from disk. A browser starts no worker for them, so the script of one runs in a hidden frame of
// the page, with the two functions that it knows from a worker: postMessage, and an importScripts that is waited for.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super()
      this.frame = document.body.appendChild(Object.assign(document.createElement("iframe"), { hidden: true, title: "search" }))
      const inner = this.frame.contentWindow
      const run = (script) => new Promise((done, failed) => {
        const src = new URL(script, document.baseURI).href
        inner.document.head.append(Object.assign(inner.document.createElement("script"), { src, onload: done, onerror: failed }))
      })
      inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      inner.importScripts = (...scripts) => scripts.reduce((before, script) => before.then(() => run(script)), Promise.resolve())
      this.started = run(address)
    }

    postMessage(data) {
      const inner = this.frame.contentWindow
      this.started.then(() => inner.dispatchEvent(new inner.MessageEvent("message", { data })))
    }

    terminate() {
      this.frame.remove()
    }
  }
}
