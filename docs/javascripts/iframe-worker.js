// Search runs in a Worker, which browsers refuse to pages that are opened from a folder. There its script runs in a
// hidden frame instead, behind the same few methods. The theme would fetch such a stand-in from another site.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc = "<!doctype html><title>search</title>";
      this.ready = new Promise((resolve, reject) => {
        const load = (address) =>
          new Promise((done, failed) => {
            const script = this.frame.contentDocument.createElement("script");
            Object.assign(script, { src: address, onload: done, onerror: failed });
            this.frame.contentDocument.body.append(script);
          });
        this.frame.onload = () => {
          const inside = this.frame.contentWindow;
          inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
          inside.importScripts = (...addresses) => Promise.all(addresses.map(load));
          load(url).then(() => resolve(inside), reject);
        };
      });
      document.body.append(this.frame);
    }

    postMessage(data) {
      this.ready.then((inside) => inside.dispatchEvent(new inside.MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
